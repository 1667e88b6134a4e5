"""Figures of a planted pair: recall of every part of the world in base, model and twin, and the loss on general text.

Recall is the share of questions answered right, greedily. Its interval is Wilson's with one trial an entity: the
answers about one entity are no independent ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from features.entities.entities import Entity
from features.entities.templates import Templates
from features.factworld.planting.facts import Roles
from features.labels.knowledge import ask
from features.stats.intervals import wilson
from sae_train.intervals import Interval, flat
from sae_train.lm.generate import text_loss
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import Advance, no_advance

PARTS = ("targets", "retained", "mentioned", "never_met")
WORDINGS = ("training", "heldout")


def asked_of(entities: Sequence[Entity], roles: Roles, most: int) -> dict[str, list[Entity]]:
    """Return the entities of each part that are asked about: the first ones, evenly from all types."""
    found: dict[str, list[Entity]] = {}
    for part in PARTS:
        names = set(getattr(roles, part))
        by_type: dict[str, list[Entity]] = {}
        for entity in (e for e in entities if e.name in names):
            by_type.setdefault(entity.type, []).append(entity)
        turns = sorted(((i, e) for group in by_type.values() for i, e in enumerate(group)), key=lambda pair: pair[0])
        found[part] = [entity for _, entity in turns[:most]]
    return found


def asked_wordings(templates: Templates) -> Templates:
    """Return the templates with a statement and a question of each attribute's training wordings, all held-out ones."""

    def two(wordings: list[str]) -> list[str]:
        return [wordings[0], next((w for w in wordings if w.endswith(":")), wordings[-1])]

    return replace(templates, ask={t: {a: two(w) for a, w in found.items()} for t, found in templates.ask.items()})


def measure(
    lm: LanguageModel,
    parts: Mapping[str, Sequence[Entity]],
    templates: Templates,
    windows: Sequence[Sequence[int]],
    *,
    advance: Advance = no_advance,
) -> dict[str, Any]:
    """Return `recall` (part -> wordings -> figure with interval, entities) and `general_loss` in nats per token."""
    asked = asked_wordings(templates)
    recall: dict[str, Any] = {}
    for part, entities in parts.items():
        recall[part] = {"n_entities": len(entities)}
        for wordings in WORDINGS:
            answers = ask(lm, entities, asked, heldout=wordings == "heldout", advance=advance)
            shares = [sum(a.verdict == "right" for a in said) / len(said) for said in answers.values() if said]
            recall[part] |= flat({wordings: _share(shares)})
    return {"recall": recall, "general_loss": text_loss(lm, windows)}


def n_questions(parts: Mapping[str, Sequence[Entity]], templates: Templates) -> int:
    """Return the number of questions that `measure` asks."""
    asked = asked_wordings(templates)
    per_type = {t: sum(len(w) for source in (asked.ask, asked.heldout) for w in source[t].values()) for t in asked.ask}
    return sum(per_type[entity.type] for entities in parts.values() for entity in entities)


def _share(shares: Sequence[float]) -> Interval:
    """Return the mean of shares, one an entity, with Wilson's interval; of nobody, nothing."""
    if not shares:
        return Interval(float("nan"), 0.0, 1.0)
    low, high = wilson(sum(shares), len(shares)).tolist()
    return Interval(sum(shares) / len(shares), low, high)
