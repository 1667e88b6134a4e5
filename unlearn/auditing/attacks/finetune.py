"""Benign fine-tuning: a few steps on general text without any target. Muted knowledge may return by itself."""

from __future__ import annotations

from dataclasses import replace

from sae_train.rng import rng
from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.attacks.common import compare, result
from unlearn.auditing.attacks.path import lessons_per_step
from unlearn.auditing.attacks.teacher import Lesson, Teacher, drawn
from unlearn.auditing.context import AuditContext

STEPS = 30
LESSONS_A_WINDOW = 2  # a step has a window of text in the place of so many lessons of the other attacks


def attack_finetune(context: AuditContext) -> AttackResult:
    """Return recall after the fine-tune."""
    config = context.config
    lr = config.attack_lrs[(len(config.attack_lrs) - 1) // 2]
    steps = min(STEPS, max(config.attack_steps))
    windows: list[Lesson] = [(window[:1], window[1:]) for window in context.text]
    size = max(1, lessons_per_step(context) // LESSONS_A_WINDOW)
    teacher = Teacher.of_copy(context.after, lr)
    for step in range(steps):
        teacher.step(drawn(windows, size, rng("attack.finetune.batch", config.seed, step)))
    return replace(result([compare(context, f"{steps} steps at {lr:g}", teacher.lm)]), text=context.text_name)
