"""Benign fine-tuning: a few steps on general text without any target. Muted knowledge may return by itself."""

from __future__ import annotations

import copy
from dataclasses import replace

from sae_train.rng import rng
from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.attacks.common import compare, result
from unlearn.auditing.attacks.relearn import Teacher
from unlearn.auditing.context import AuditContext

STEPS = 30
BATCH_SIZE = 8  # windows


def attack_finetune(context: AuditContext) -> AttackResult:
    """Return recall after the fine-tune."""
    config = context.config
    lr = config.attack_lrs[len(config.attack_lrs) // 2]
    steps = min(STEPS, max(config.attack_steps))
    student = replace(context.after, model=copy.deepcopy(context.after.model))
    teacher = Teacher(student, lr)
    for step in range(steps):
        generator = rng("attack.finetune.batch", config.seed, step)
        picked = generator.choice(len(context.text), min(BATCH_SIZE, len(context.text)), replace=False)
        teacher.step([(context.text[i][:1], context.text[i][1:]) for i in picked])
    return replace(result([compare(context, f"{steps} steps at {lr:g}", student)]), text=context.text_name)
