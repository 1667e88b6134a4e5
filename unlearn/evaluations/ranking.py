"""Ranking: is the true answer still the likeliest among candidates? Muting an answer does not move its rank.

For one held-out wording per attribute, the candidates are answers of other entities of the same type; each is scored by
the mean log-probability of its tokens. The figure is the share of questions with the truth ranked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from features.entities import Entity
from features.knowledge import normalize
from features.prompts import Prompt, questions
from sae_train.lm.generate import continuation_log_probs
from sae_train.lm.models import LanguageModel
from sae_train.lm.tokens import encode_plain
from unlearn.context import AuditContext, before_after, units

MAX_KEPT = 40  # neighbours, and others, that are ranked


def evaluate_ranking(context: AuditContext) -> dict[str, Any]:
    """Return the share of first ranks before/after per group, and chance."""
    found: dict[str, Any] = {}
    for group in ("forget", "neighbours", "retain"):
        entities = context.group(group)
        entities = entities if group == "forget" else entities[:MAX_KEPT]
        shares = {when: first_rank_shares(context, entities, context.model(when)) for when in ("before", "after")}
        found[group] = before_after("ranking", shares["before"], shares["after"], context.config.seed)
    sizes = [len(c) for c in candidates_by_attribute(context).values()]
    smallest = [min(context.config.n_candidates, s) for s in sizes if s]
    return {
        **found,
        "ranking_chance": float(np.mean([1 / s for s in smallest])) if smallest else float("nan"),
    }


def candidates_by_attribute(context: AuditContext) -> dict[tuple[str, str], list[str]]:
    """Return the distinct first answers of all known entities, by type and attribute."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for entity in (*context.forget, *context.neighbours, *context.retain, *context.probe_known):
        for attribute, answers in entity.facts.items():
            found.setdefault((entity.type, attribute), {}).setdefault(normalize(answers[0]), answers[0])
    return {key: list(values.values()) for key, values in found.items()}


def first_rank_shares(context: AuditContext, entities: Sequence[Entity], lm: LanguageModel) -> list[float]:
    """Return 1 where the true answer is ranked first and 0 elsewhere, one question per attribute, by `units`."""
    pools = candidates_by_attribute(context)
    cases: list[tuple[str, Prompt, list[str]]] = []
    for entity in entities:
        seen: set[str] = set()
        for prompt in questions(entity, context.templates, heldout=True):
            attribute = prompt.attribute or ""
            if attribute in seen:
                continue
            seen.add(attribute)
            options = draw_candidates(entity, attribute, pools[entity.type, attribute], context)
            if len(options) > 1:
                cases.append((entity.key, prompt, options))
    firsts = _ranked_first(lm, [(p, o) for _, p, o in cases])
    shares: dict[str, list[float]] = {}
    for (key, _, _), is_first in zip(cases, firsts, strict=True):
        shares.setdefault(key, []).append(float(is_first))
    return units(list(shares.values()))


def draw_candidates(entity: Entity, attribute: str, pool: Sequence[str], context: AuditContext) -> list[str]:
    """Return the true answer, first, and other answers drawn by the audit's seed and the question."""
    accepted = {normalize(v) for v in entity.facts[attribute]}
    others = [v for v in pool if normalize(v) not in accepted]
    words = f"{entity.key}|{attribute}".encode()
    generator = np.random.default_rng([0xCA, context.config.seed, *words])
    picked = generator.permutation(len(others))[: context.config.n_candidates - 1]
    return [entity.facts[attribute][0], *(others[i] for i in picked)]


def _ranked_first(lm: LanguageModel, cases: Sequence[tuple[Prompt, list[str]]]) -> list[bool]:
    """Tell for every (question, options) whether the first option is the likeliest per token."""
    prompts = [prompt.text for prompt, options in cases for _ in options]
    answers = [f" {option}" for _, options in cases for option in options]
    scores = np.array(continuation_log_probs(lm, prompts, answers))
    lengths = np.array([len(ids) for ids in encode_plain(lm.tokenizer, answers)[0]]) if answers else np.ones(0)
    per_token = scores / lengths
    firsts, start = [], 0
    for _, options in cases:
        own = per_token[start : start + len(options)]
        firsts.append(bool(own[0] >= own.max()))
        start += len(options)
    return firsts
