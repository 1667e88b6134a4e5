"""Same-form lessons: teach facts of other entities in the wordings in which the targets are then asked.

What brings suppressed knowledge back is the form of a sentence rather than its topic (arXiv:2602.03379): a copy of the
model is fine-tuned on known entities that were retained, in exactly the held-out wordings that ask about the targets.
Nothing is told about a target, nor about a never-known entity, the control: a model that never knew the targets has
nothing to give back, and learns at most which answers are common.
"""

from __future__ import annotations

from collections.abc import Sequence

from features.entities.entities import Entity
from features.entities.prompts import Prompt, by_type, questions
from features.entities.templates import Templates
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.run.progress import Advance, no_advance
from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.attacks.common import attacked
from unlearn.auditing.attacks.path import Path, PathConfig, path_config, path_result, walk_path
from unlearn.auditing.attacks.readings import Reader
from unlearn.auditing.attacks.teacher import drawn, make_lessons
from unlearn.auditing.context import AuditContext


def same_form(
    lm: LanguageModel,
    others: Sequence[Entity],
    targets: Sequence[Entity],
    control: Sequence[Entity],
    templates: Templates,
    config: PathConfig | None = None,
    *,
    advance: Advance = no_advance,
) -> Path | None:
    """Teach a copy of the model other entities in the targets' wordings; the model itself is left as it is.

    Args:
        lm: The model after unlearning.
        others: Known entities with facts, neither targets nor control.
        targets: What it was to forget, with facts; all of them are asked.
        control: Never-known entities with (any) facts of the same attributes.
        templates: `heldout` wordings teach and ask.
        config: Steps, step sizes, batch.
        advance: Called with 1 after every optimizer step.

    Returns:
        What is answered about the targets at every point, beside the control; None where no other entity can be asked
        in a wording of the targets.
    """
    config = config or PathConfig()
    targets, control = targets[: config.max_targets], control[: config.max_targets]
    reader = Reader(targets, control, templates, config.max_wordings, config.seed)
    taught = taught_in(reader, others, targets)
    if not taught:
        return None
    lessons = make_lessons(lm, taught)
    points = walk_path(
        lm,
        lambda step: drawn(lessons, config.batch_size, rng("attack.same-form.batch", config.seed, step)),
        reader,
        config,
        advance=advance,
    )
    n_taught = len({(p.entity, p.attribute) for p, _ in taught})
    return Path(points, "entities", n_taught, sum(len(t.facts) for t in targets), reader.not_read)


def taught_in(reader: Reader, others: Sequence[Entity], targets: Sequence[Entity]) -> list[tuple[Prompt, str]]:
    """Return questions about other entities, in the targets' wordings and no others, with their answers."""
    kinds = {t.key: t.type for t in targets}
    forms = {(kinds[p.entity], p.attribute, p.template) for p in reader.prompts}
    return [
        (prompt, entity.facts[prompt.attribute or ""][0])
        for entity in others
        for prompt in questions(entity, reader.templates, heldout=True)
        if (entity.type, prompt.attribute, prompt.template) in forms
    ]


def attack_same_form(context: AuditContext) -> AttackResult | None:
    """Return what is answered about the targets over the path; None where there is nobody else to teach."""
    targets, control = attacked(context)
    config = path_config(context)
    path = same_form(context.after, _others(context), targets, control, context.templates, config)
    if path is None:
        return None
    reader = Reader(targets, control, context.templates, config.max_wordings, config.seed)
    return path_result(path, reader.read(context.before))


def _others(context: AuditContext) -> list[Entity]:
    """Return who is taught: other known entities; of a type that has none, the targets' neighbours."""
    retained = by_type(context.retain)
    return [*context.retain, *(e for e in context.neighbours if e.type not in retained)]
