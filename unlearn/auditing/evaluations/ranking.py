"""Ranking: is the true answer still the likeliest among candidates? Muting an answer does not change its rank.

For one held-out wording per attribute, the candidates are answers of other entities of the same type; each is scored by
the mean log-probability of its tokens. From the same scores: the probability of the answer, the truth ratio and the
extraction strength (`text_metrics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.entities.entities import Entity
from features.entities.prompts import Prompt, questions
from sae_train.lm.candidates import option_scores
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.text.words import normalize
from unlearn.auditing.audit_figures import Figure, GroupResult
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext, figure, units
from unlearn.auditing.evaluations.text_metrics import extraction_strength, truth_ratio

MAX_KEPT = 40  # neighbours, and others, that are ranked


@dataclass(frozen=True)
class RankedQuestion:
    """What one question's scores say.

    Attributes:
        entity: Key of the entity that it asks about.
        ranking: 1 where the true answer is the likeliest candidate per token, else 0.
        probability: exp of the mean log-probability of its tokens.
        truth_ratio: See `text_metrics.truth_ratio`.
        extraction_strength: See `text_metrics.extraction_strength`.
    """

    entity: str
    ranking: float
    probability: float
    truth_ratio: float
    extraction_strength: float


def evaluate_ranking(context: AuditContext) -> Findings:
    """Return every figure before/after per group, that of never-known entities, and chance."""
    forget, neighbours, retain, control = (
        _ranked(context, entities)
        for entities in (context.forget, context.neighbours[:MAX_KEPT], context.retain[:MAX_KEPT], context.control)
    )
    sizes = [len(c) for c in candidates_by_attribute(context).values()]
    smallest = [min(context.config.n_candidates, s) for s in sizes if s]
    chance = float(np.mean([1 / s for s in smallest])) if smallest else float("nan")
    return Findings(forget=forget, neighbours=neighbours, retain=retain, control=control, ranking_chance=chance)


def _ranked(context: AuditContext, entities: Sequence[Entity]) -> GroupResult:
    """Return every figure of some entities."""
    before, after = (ranked_questions(context, entities, context.model(when)) for when in ("before", "after"))

    def mean(name: str) -> Figure:
        return figure(per_unit(before, name), per_unit(after, name), context.config.seed)

    return GroupResult(
        ranking=mean("ranking"),
        probability=mean("probability"),
        truth_ratio=mean("truth_ratio"),
        extraction_strength=mean("extraction_strength"),
    )


def per_unit(ranked: Sequence[RankedQuestion], name: str) -> list[float]:
    """Return a figure by `units`."""
    found: dict[str, list[float]] = {}
    for question in ranked:
        found.setdefault(question.entity, []).append(getattr(question, name))
    return units(list(found.values()))


def candidates_by_attribute(context: AuditContext) -> dict[tuple[str, str], list[str]]:
    """Return the distinct first answers of all known entities, by type and attribute."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for entity in (*context.forget, *context.neighbours, *context.retain, *context.probe_known):
        for attribute, answers in entity.facts.items():
            found.setdefault((entity.type, attribute), {}).setdefault(normalize(answers[0]), answers[0])
    return {key: list(values.values()) for key, values in found.items()}


def ranked_cases(context: AuditContext, entities: Sequence[Entity]) -> list[tuple[Prompt, list[str]]]:
    """Return one held-out question per attribute with its options, the truth first."""
    pools = candidates_by_attribute(context)
    cases: list[tuple[Prompt, list[str]]] = []
    for entity in entities:
        seen: set[str] = set()
        for prompt in questions(entity, context.templates, heldout=True):
            attribute = prompt.attribute or ""
            if attribute in seen:
                continue
            seen.add(attribute)
            options = draw_candidates(entity, attribute, pools.get((entity.type, attribute), []), context)
            if len(options) > 1:
                cases.append((prompt, options))
    return cases


def ranked_questions(context: AuditContext, entities: Sequence[Entity], lm: LanguageModel) -> list[RankedQuestion]:
    """Score the options of every question."""
    cases = ranked_cases(context, entities)
    scores = option_scores(lm, [p.text for p, _ in cases], [o for _, o in cases])
    found = []
    for (prompt, _), score in zip(cases, scores, strict=True):
        true, *others = score.per_token
        found.append(
            RankedQuestion(
                prompt.entity,
                float(true >= max(others)),
                float(np.exp(true)),
                truth_ratio(true, others),
                extraction_strength(score.first_greedy),
            )
        )
    return found


def frac_ranked_first(context: AuditContext, entities: Sequence[Entity], lm: LanguageModel) -> list[float]:
    """Return 1 where the true answer is ranked first and 0 elsewhere, one question per attribute, by `units`."""
    return per_unit(ranked_questions(context, entities, lm), "ranking")


def draw_candidates(entity: Entity, attribute: str, pool: Sequence[str], context: AuditContext) -> list[str]:
    """Return the true answer, first, and other answers drawn by the audit's seed and the question."""
    accepted = {normalize(v) for v in entity.facts[attribute]}
    others = [v for v in pool if normalize(v) not in accepted]
    words = f"{entity.key}|{attribute}".encode()
    generator = rng("ranking.candidates", context.config.seed, *words)
    picked = generator.permutation(len(others))[: context.config.n_candidates - 1]
    return [entity.facts[attribute][0], *(others[i] for i in picked)]
