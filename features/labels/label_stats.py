"""Statistics of a labelled set: labels by type, name length and popularity, with sample answers.

Everything comes from the label file. The control re-judges the kept answers by another entity's facts (same type): what
is still known then was guessed, as by a model that always names the same country.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from features.config import KnowledgeRule
from features.entities.entities import LABELS, Entity
from features.entities.prompts import by_type
from features.labels.knowledge import records_of, rivals_of
from features.labels.matching import VERDICTS
from features.labels.rules import label_of

N_QUANTILES = 4


class StatsRow(NamedTuple):
    """One group of entities.

    Attributes:
        by: What parts the entities: `all`, `type`, `name length`, `popularity`.
        group: Which part.
        n: Entities in it.
        known, unknown, between: Of these.
    """

    by: str
    group: str
    n: int
    known: int
    unknown: int
    between: int


class AnswerRow(NamedTuple):
    """An entity for the human eye.

    Attributes:
        label, entity, attribute: The entity, its label, and the attribute asked for.
        truth: First accepted value.
        answers: Greedy ones, each with its verdict in front where it is not right.
        samples_right: Right samples of all samples; empty without samples.
    """

    label: str
    entity: str
    attribute: str
    truth: str
    answers: str
    samples_right: str


@dataclass(frozen=True)
class LabelStats:
    """Everything that the statistics of labels show.

    Attributes:
        rows: Counts by group.
        verdicts: Greedy answers per label and verdict.
        known_by_chance: Share of entities whose answers would make them known with another entity's facts.
        examples: Answers of some entities of each label.
    """

    rows: list[StatsRow]
    verdicts: dict[str, dict[str, int]]
    known_by_chance: float
    examples: list[AnswerRow]


def label_stats(entities: Sequence[Entity], rule: KnowledgeRule, *, per_label: int = 5, seed: int = 0) -> LabelStats:
    """Count a labelled set.

    Args:
        entities: With labels and answers.
        rule: By which the control is labelled.
        per_label: Entities of each label whose answers are shown.
        seed: Of the control and of which entities are shown.
    """
    rows = [_counted("all", "", entities)]
    rows += [_counted("type", kind, members) for kind, members in by_type(entities).items()]
    rows += _by_name_length(entities)
    rows += _by_popularity(entities)
    return LabelStats(
        rows=rows,
        verdicts=_verdicts(entities),
        known_by_chance=known_by_chance(entities, rule, seed=seed),
        examples=answer_examples(entities, per_label=per_label, seed=seed),
    )


def _counted(by: str, group: str, members: Sequence[Entity]) -> StatsRow:
    """Count one group."""
    return StatsRow(by, group, len(members), *(sum(e.label == label for e in members) for label in LABELS))


def _by_name_length(entities: Sequence[Entity]) -> list[StatsRow]:
    """Part by tokens of the name where they are recorded, else by its words; six and more are one group."""
    has_tokens = all(e.name_tokens is not None for e in entities)
    unit = "token" if has_tokens else "word"
    lengths = [min(6, e.name_tokens or 0) if has_tokens else min(6, len(e.name.split())) for e in entities]
    return [
        _counted(
            "name length",
            f"{n}{' or more' if n == 6 else ''} {unit}{'s' if n > 1 else ''}",
            [e for e, own in zip(entities, lengths, strict=True) if own == n],
        )
        for n in sorted(set(lengths))
    ]


def _by_popularity(entities: Sequence[Entity]) -> list[StatsRow]:
    """Part by quartiles of the popularity, among the entities that have one."""
    given = [(e.popularity, e) for e in entities if e.popularity is not None]
    if not given:
        return []
    values = np.array([p for p, _ in given])
    edges = np.quantile(values, np.linspace(0, 1, N_QUANTILES + 1))
    part = np.searchsorted(edges[1:-1], values, side="left")
    rows = []
    for q in range(N_QUANTILES):
        members = [e for (_, e), own in zip(given, part, strict=True) if own == q]
        if members:
            own = values[part == q]
            rows.append(_counted("popularity", f"{own.min():,.6g} to {own.max():,.6g}", members))
    return rows


def _verdicts(entities: Sequence[Entity]) -> dict[str, dict[str, int]]:
    """Count the greedy answers by label and verdict."""
    rivals = rivals_of(entities)
    counts: dict[str, dict[str, int]] = {label: {v: 0 for v in VERDICTS} for label in LABELS}
    for entity in entities:
        for record in records_of(entity, rivals).values():
            for verdict in record.greedy:
                counts[str(entity.label)][verdict] += 1
    return counts


def known_by_chance(entities: Sequence[Entity], rule: KnowledgeRule, *, seed: int = 0) -> float:
    """Return the share of entities that count as known when judged by the facts of another one of their type."""
    rivals, rng = rivals_of(entities), random.Random(seed)
    n_known = n_asked = 0
    for members in by_type([e for e in entities if e.answers]).values():
        others = members[:]
        rng.shuffle(others)
        for entity, other in zip(others, [*others[1:], *others[:1]], strict=True):
            if other is not entity:
                n_asked += 1
                n_known += label_of(records_of(entity, rivals, other.facts), rule) == "known"
    return n_known / n_asked if n_asked else float("nan")


def answer_examples(entities: Sequence[Entity], *, per_label: int = 5, seed: int = 0) -> list[AnswerRow]:
    """Return what some entities of each label were answered, drawn by seed: for the human eye, also in reports."""
    rivals = rivals_of(entities)
    rows = []
    for label in LABELS:
        members = [e for e in entities if e.label == label and e.answers]
        for entity in random.Random(f"{seed} {label}").sample(members, min(per_label, len(members))):
            for attribute, record in records_of(entity, rivals).items():
                said = zip(entity.answers[attribute], record.greedy, strict=True)
                rows.append(
                    AnswerRow(
                        label=label,
                        entity=entity.name,
                        attribute=attribute,
                        truth=entity.facts[attribute][0],
                        answers=" | ".join(text if v == "right" else f"[{v}] {text}" for text, v in said),
                        samples_right=f"{record.sampled.count('right')}/{len(record.sampled)}"
                        if record.sampled
                        else "",
                    )
                )
    return rows
