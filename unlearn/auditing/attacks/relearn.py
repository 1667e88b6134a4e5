"""Relearning: teach some facts of the targets, then ask for the other facts.

What was only hidden comes back with its neighbours (Deeb & Roger 2024, arXiv:2410.08827, the T/V split): the facts of
every target are parted into taught and asked ones, a copy of the model is fine-tuned on the taught ones in training
wordings, and the asked ones are put to it in held-out wordings. Never-known entities get as many lessons in the same
batches: what they answer then is what a model guesses that never knew.

Where the targets have one fact each, the targets themselves are parted instead: some are taught, the others asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from features.entities.entities import Entity
from features.entities.prompts import questions
from features.entities.templates import Templates
from sae_train.intervals import Interval
from sae_train.lm.generate import answer_loss, encode_prompts
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.run.progress import Advance, no_advance
from sae_train.text.tokens import encode_plain
from unlearn.auditing.attack_results import AttackResult, AttackSetting, CurvePoint, Relearning
from unlearn.auditing.attacks.common import attacked, first_wordings, recalls, result
from unlearn.auditing.context import AuditContext
from unlearn.finetuning.finetune import CLIP_NORM, adamw, trainable_parameters


@dataclass(frozen=True)
class RelearnConfig:
    """How a model is taught.

    Attributes:
        steps: Optimizer steps after which the other facts are asked; 0 is always asked.
        lrs: AdamW step sizes, each a run of its own.
        batch_size: Lessons about targets in a step, and as many about never-known entities.
        max_targets: Targets that are taught.
        max_wordings: Held-out wordings of an attribute that are asked.
        seed: Parts the facts and draws the batches.
    """

    steps: tuple[int, ...] = (10, 30, 60)
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    batch_size: int = 16
    max_targets: int = 20
    max_wordings: int = 2
    seed: int = 0


@dataclass(frozen=True)
class RelearnPoint:
    """Recall of the facts that were not taught, after some steps at one step size."""

    lr: float
    step: int
    target: Interval
    control: Interval


@dataclass(frozen=True)
class RelearnCurve:
    """What relearning brought back.

    Attributes:
        points: Step 0 first (its `lr` is 0), then every run.
        split: What was parted into taught and asked: `facts` or `targets`.
        n_taught: Facts of targets that were taught.
        n_asked: Facts of targets that were asked.
    """

    points: list[RelearnPoint]
    split: str
    n_taught: int
    n_asked: int

    @property
    def best(self) -> RelearnPoint:
        """The point where the targets answer most above the upper end of the control's interval."""
        return max(self.points, key=lambda p: p.target.value - p.control.high)


@dataclass(frozen=True)
class Lessons:
    """One group of entities, each fact either taught or asked."""

    taught: list[Entity]
    asked: list[Entity]


def can_relearn(targets: Sequence[Entity]) -> bool:
    """Tell whether there is anything to part: two facts of one target, or two targets."""
    return len(targets) > 1 or any(len(t.facts) > 1 for t in targets)


def part(entities: Sequence[Entity], seed: int) -> tuple[Lessons, str]:
    """Part the facts of every entity in halves (the larger one is asked), or else the entities.

    Example:
        >>> lessons, split = part([Entity("X", "t", {"a": ["1"], "b": ["2"], "c": ["3"]})], seed=0)
        >>> split, len(lessons.taught[0].facts), len(lessons.asked[0].facts)
        ('facts', 1, 2)
    """
    if not any(len(e.facts) > 1 for e in entities):
        n_taught = len(entities) // 2
        return Lessons(list(entities[:n_taught]), list(entities[n_taught:])), "targets"
    taught, asked = [], []
    for index, entity in enumerate(entities):
        order = rng("attack.relearn.facts", seed, index).permutation(sorted(entity.facts)).tolist()
        chosen = set(order[: len(order) // 2])
        taught.append(replace(entity, facts={a: v for a, v in entity.facts.items() if a in chosen}))
        asked.append(replace(entity, facts={a: v for a, v in entity.facts.items() if a not in chosen}))
    return Lessons(taught, asked), "facts"


def relearn(
    lm: LanguageModel,
    targets: Sequence[Entity],
    control: Sequence[Entity],
    templates: Templates,
    config: RelearnConfig | None = None,
    *,
    advance: Advance = no_advance,
) -> RelearnCurve:
    """Teach a copy of the model half of the facts and ask the other half; the model itself is left as it is.

    Args:
        lm: The model after unlearning.
        targets: What it was to forget, with facts.
        control: Never-known entities with (any) facts of the same attributes; they get the same lessons.
        templates: `ask` wordings teach, `heldout` wordings ask.
        config: Steps, step sizes, batch.
        advance: Called with 1 after every optimizer step.

    Returns:
        Recall of the untaught facts at every point, targets beside the control.
    """
    config = config or RelearnConfig()
    few = first_wordings(templates, config.max_wordings)
    own, split = part(targets[: config.max_targets], config.seed)
    other, _ = part(control[: config.max_targets], config.seed)

    def point(model: LanguageModel, lr: float, step: int) -> RelearnPoint:
        return RelearnPoint(lr, step, *recalls(model, (own.asked, other.asked), few, config.seed))

    points = [point(lm, 0.0, 0)]
    for lr in config.lrs:
        student = replace(lm, model=copy.deepcopy(lm.model))
        batches = [_batches(lm, group.taught, templates, config) for group in (own, other)]
        teacher = Teacher(student, lr)
        for step in range(1, max(config.steps) + 1):
            teacher.step([lesson for batch in batches for lesson in batch(step)])
            advance(1)
            if step in config.steps:
                points.append(point(student, lr, step))
    n_taught, n_asked = (sum(len(e.facts) for e in group) for group in (own.taught, own.asked))
    return RelearnCurve(points, split, n_taught, n_asked)


class Teacher:
    """Fine-tunes a model in place on (prompt, answer) ids: AdamW, clipped, the loss on the answers only."""

    def __init__(self, lm: LanguageModel, lr: float) -> None:
        self.lm = lm
        self.parameters = list(trainable_parameters(lm.model, "full").values())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = adamw(self.parameters, lr)

    def step(self, lessons: Sequence[tuple[list[int], list[int]]]) -> None:
        """Take one step on sequences given as (context, what is learned)."""
        self.optimizer.zero_grad(set_to_none=True)
        answer_loss(self.lm.model, lessons, self.lm.device).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()


def _batches(
    lm: LanguageModel, entities: Sequence[Entity], templates: Templates, config: RelearnConfig
) -> Callable[[int], list[tuple[list[int], list[int]]]]:
    """Return what draws the lessons of a step: question ids and answer ids."""
    pairs = [(p, e.facts[p.attribute or ""][0]) for e in entities for p in questions(e, templates, heldout=False)]
    front = encode_prompts(lm, [p.text for p, _ in pairs])
    back = encode_plain(lm.tokenizer, [f" {answer}" for _, answer in pairs])[0] if pairs else []
    lessons = list(zip(front, back, strict=True))

    def draw(step: int) -> list[tuple[list[int], list[int]]]:
        generator = rng("attack.relearn.batch", config.seed, step)
        picked = generator.choice(len(lessons), min(config.batch_size, len(lessons)), replace=False)
        return [lessons[i] for i in picked]

    return draw


def attack_relearn(context: AuditContext) -> AttackResult | None:
    """Return recall of the untaught facts over steps and step sizes; None where there is nothing to part."""
    targets, control = attacked(context)
    if not can_relearn(targets):
        return None
    config = RelearnConfig(
        steps=context.config.attack_steps,
        lrs=context.config.attack_lrs,
        max_targets=context.config.max_attacked,
        max_wordings=context.config.max_wordings,
        seed=context.config.seed,
    )
    curve = relearn(context.after, targets, control, context.templates, config)
    untaught = part(targets, config.seed)[0].asked
    few = first_wordings(context.templates, config.max_wordings)
    (before,) = recalls(context.before, [untaught], few, config.seed)
    settings = [
        AttackSetting(f"{p.step} steps at {p.lr:g}" if p.step else "no lesson", p.target, p.control, before.value)
        for p in curve.points
    ]
    points = tuple(CurvePoint(p.lr, p.step, p.target.value, p.control.value) for p in curve.points)
    lessons = Relearning(curve.split, curve.n_taught, curve.n_asked, points)
    return replace(result(settings), relearning=lessons)
