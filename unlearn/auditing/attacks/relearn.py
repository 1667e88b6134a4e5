"""Relearning: teach some facts of the targets, then ask for the other facts.

What was only hidden comes back with its neighbours (Deeb & Roger 2024, arXiv:2410.08827, the T/V split): the facts of
every target are parted into taught and asked ones, a copy of the model is fine-tuned on the taught ones in training
wordings, and the asked ones are put to it in held-out wordings, never in one that taught. Never-known entities get as
many lessons in the same batches: what they answer then is what a model guesses that never knew. What is read, and where
on the way: `readings.py`, `path.py`.

Where the targets have one fact each, the targets themselves are parted instead: some are taught, the others asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from features.entities.entities import Entity
from features.entities.prompts import questions
from features.entities.templates import Templates
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.run.progress import Advance, no_advance
from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.attacks.common import attacked
from unlearn.auditing.attacks.path import Path, PathConfig, path_config, path_result, walk_path
from unlearn.auditing.attacks.readings import Reader
from unlearn.auditing.attacks.teacher import Lesson, drawn, make_lessons
from unlearn.auditing.context import AuditContext


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
    config: PathConfig | None = None,
    *,
    advance: Advance = no_advance,
) -> Path:
    """Teach a copy of the model half of the facts and ask the other half; the model itself is left as it is.

    Args:
        lm: The model after unlearning.
        targets: What it was to forget, with facts.
        control: Never-known entities with (any) facts of the same attributes; they get the same lessons.
        templates: `ask` wordings teach, `heldout` wordings ask.
        config: Steps, step sizes, batch.
        advance: Called with 1 after every optimizer step.

    Returns:
        What is answered about the untaught facts at every point, targets beside the control.
    """
    config = config or PathConfig()
    own, split, reader = _asked(targets, control, templates, config)
    other, _ = part(control[: config.max_targets], config.seed)
    batches = [_batches(lm, group.taught, templates, config) for group in (own, other)]
    points = walk_path(lm, lambda step: [x for batch in batches for x in batch(step)], reader, config, advance=advance)
    n_taught, n_asked = (sum(len(e.facts) for e in group) for group in (own.taught, own.asked))
    return Path(points, split, n_taught, n_asked, reader.not_read)


def _asked(
    targets: Sequence[Entity], control: Sequence[Entity], templates: Templates, config: PathConfig
) -> tuple[Lessons, str, Reader]:
    """Return the parted targets, what was parted, and what asks for the untaught facts."""
    own, split = part(targets[: config.max_targets], config.seed)
    other, _ = part(control[: config.max_targets], config.seed)
    return own, split, Reader(own.asked, other.asked, templates, config.max_wordings, config.seed)


def _batches(
    lm: LanguageModel, entities: Sequence[Entity], templates: Templates, config: PathConfig
) -> Callable[[int], list[Lesson]]:
    """Return what draws the lessons of a step: training questions with their answers."""
    taught = [(p, e.facts[p.attribute or ""][0]) for e in entities for p in questions(e, templates, heldout=False)]
    lessons = make_lessons(lm, taught)
    return lambda step: drawn(lessons, config.batch_size, rng("attack.relearn.batch", config.seed, step))


def attack_relearn(context: AuditContext) -> AttackResult | None:
    """Return what is answered about the untaught facts over the path; None where there is nothing to part."""
    targets, control = attacked(context)
    if not can_relearn(targets):
        return None
    config = path_config(context)
    path = relearn(context.after, targets, control, context.templates, config)
    reader = _asked(targets, control, context.templates, config)[2]
    return path_result(path, reader.read(context.before))
