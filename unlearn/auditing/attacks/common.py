"""What the attacks share: entities to attack, questions to ask, and the form of a result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from features.entities.entities import Entity
from features.entities.prompts import Prompt, questions
from features.entities.templates import Templates
from features.labels.knowledge import ask
from sae_train.intervals import Interval
from sae_train.lm.generate import encode_prompts
from sae_train.lm.models import LanguageModel
from unlearn.auditing.attack_results import AttackResult, AttackSetting
from unlearn.auditing.context import AuditContext, mean_interval, units
from unlearn.finetuning.finetune import trainable_parameters


def result(settings: Sequence[AttackSetting]) -> AttackResult:
    """Return what an attack reports: the setting where the targets lie most above the control's interval, and all."""
    worst = max(settings, key=lambda s: s.target.value - s.control.high)
    return AttackResult(worst, tuple(settings))


def attacked(context: AuditContext) -> tuple[list[Entity], list[Entity]]:
    """Return the targets that are attacked and their never-known controls."""
    most = context.config.max_attacked
    return context.forget[:most], context.control[:most]


def first_wordings(templates: Templates, most: int) -> Templates:
    """Keep the first held-out wordings of every attribute."""
    kept = {k: {a: t[:most] for a, t in v.items()} for k, v in templates.heldout.items()}
    return replace(templates, heldout=kept)


def asked(context: AuditContext, entities: Sequence[Entity]) -> list[Prompt]:
    """Return the questions that attacks ask about some entities."""
    few = first_wordings(context.templates, context.config.max_wordings)
    return [p for e in entities for p in questions(e, few, heldout=True)]


def recalls(lm: LanguageModel, groups: Sequence[Sequence[Entity]], templates: Templates, seed: int) -> list[Interval]:
    """Return, per group, the share of right greedy answers in held-out wordings with its interval; see `units`.

    All groups are asked side by side.
    """
    found = ask(lm, [e for group in groups for e in group], templates, heldout=True)
    right = [[[float(a.verdict == "right") for a in found[e.key]] for e in group] for group in groups]
    return [mean_interval(units(shares), seed) for shares in right]


def interval(per_entity: Sequence[Sequence[float]], context: AuditContext) -> Interval:
    """Return a mean over entities (or questions, where they are few) with its interval."""
    return mean_interval(units(per_entity), context.config.seed)


def by_entity(prompts: Sequence[Prompt], values: Sequence[float | bool]) -> list[list[float]]:
    """Group one value per prompt by entity."""
    found: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        found.setdefault(prompt.entity, []).append(float(value))
    return list(found.values())


def fits(lm: LanguageModel, texts: Sequence[str], behind: int = 0) -> bool:
    """Tell whether the model has positions for each of some texts, and for so many tokens behind it."""
    return max(map(len, encode_prompts(lm, texts))) + behind <= lm.max_positions


def recall_before(context: AuditContext) -> float:
    """Return the original model's recall of the attacked targets on the questions of `compare`; asked already."""
    wanted = {p.text for p in asked(context, attacked(context)[0])}
    answers = [a for found in context.answers_of("forget", "before").values() for a in found if a.prompt.text in wanted]
    return sum(a.verdict == "right" for a in answers) / len(answers) if answers else float("nan")


def compare(context: AuditContext, name: str, lm: LanguageModel) -> AttackSetting:
    """Ask a changed model about the targets and about the control."""
    few = first_wordings(context.templates, context.config.max_wordings)
    target, control = recalls(lm, attacked(context), few, context.config.seed)
    return AttackSetting(name, target, control, recall_before(context))


@torch.no_grad()
def with_matrices(lm: LanguageModel, edit: Callable[[Tensor], Tensor]) -> LanguageModel:
    """Return a copy of the model with every weight matrix but the embedding replaced by `edit` of it.

    The experts of a mixture are kept as one three-dimensional parameter: there every expert's matrix is one.
    """
    changed = replace(lm, model=copy.deepcopy(lm.model))
    for parameter in trainable_parameters(changed.model, "full").values():
        if parameter.ndim == 2:
            parameter.copy_(edit(parameter))
        elif parameter.ndim == 3 and min(parameter.shape[-2:]) > 1:  # a convolution over time has an axis of one
            for matrix in parameter:
                matrix.copy_(edit(matrix))
    return changed
