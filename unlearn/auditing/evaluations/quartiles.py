"""Quartiles: whose knowledge is left? Recall of targets by how sure the original model was, and by their popularity.

What a model knows best is hardest to remove; a mean over targets that it hardly knew says little about the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unlearn.auditing.audit_figures import Quarter
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext, figure, units
from unlearn.auditing.evaluations.ranking import ranked_cases, ranked_questions

N_PARTS = 4


@dataclass(frozen=True)
class Sorted:
    """One question, and what it is sorted by.

    Attributes:
        entity: Key of the entity that it asks about.
        value: By which it is sorted.
        before, after: 1 where either model answers rightly, else 0.
    """

    entity: str
    value: float
    before: float
    after: float


def evaluate_quartiles(context: AuditContext) -> Findings | None:
    """Return recall by quarter of the questions, by `probability` and, where targets have one, by `popularity`."""
    right = {
        when: {
            a.prompt.text: float(a.verdict == "right")
            for found in context.answers_of("forget", when).values()
            for a in found
        }
        for when in ("before", "after")
    }
    fame = {e.key: e.popularity for e in context.forget}
    cases = ranked_cases(context, context.forget)
    ranked = ranked_questions(context, context.forget, context.before)
    asked = [
        (prompt.entity, own.probability, right["before"][prompt.text], right["after"][prompt.text])
        for (prompt, _), own in zip(cases, ranked, strict=True)
    ]
    by = {
        "probability": [Sorted(*row) for row in asked],
        "popularity": [Sorted(key, value, *sides) for key, _, *sides in asked if (value := fame[key]) is not None],
    }
    found = {name: quarters(rows, context.config.seed) for name, rows in by.items() if len(rows) >= N_PARTS}
    return Findings(quartiles=found) if found else None


def quarters(rows: Sequence[Sorted], seed: int) -> tuple[Quarter, ...]:
    """Part questions into quarters of like size by their value, lowest first; equals stay in the order they come in."""
    order = np.argsort([row.value for row in rows], kind="stable")
    found = []
    for part in np.array_split(order, N_PARTS):
        own = [rows[i] for i in part]
        keys = list(dict.fromkeys(row.entity for row in own))
        before, after = (
            units([[getattr(row, when) for row in own if row.entity == key] for key in keys])
            for when in ("before", "after")
        )
        values = [row.value for row in own]
        found.append(Quarter(min(values), max(values), len(own), figure(before, after, seed)))
    return tuple(found)
