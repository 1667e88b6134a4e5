"""Recall: share of questions in held-out wordings answered rightly, greedily. A mean over entities."""

from __future__ import annotations

from typing import Any

from unlearn.context import AuditContext, before_after, units

GROUPS = ("forget", "neighbours", "retain")


def evaluate_recall(context: AuditContext) -> dict[str, Any]:
    """Return `n` and recall before/after with intervals for targets, neighbours and other known entities."""
    found: dict[str, Any] = {}
    for group in GROUPS:
        shares = {when: right_answers(context, group, when) for when in ("before", "after")}
        found[group] = {
            "n": len(context.group(group)),
            **before_after("recall", shares["before"], shares["after"], context.config.seed),
        }
    found["untouched"] = _untouched(context)
    return found


def _untouched(context: AuditContext) -> dict[str, Any]:
    """Return the same for the kept entities that no training retained, from the answers given already."""
    keys = {e.key for e in context.untouched}
    shares: dict[str, list[float]] = {}
    for when in ("before", "after"):
        answers = {**context.answers_of("neighbours", when), **context.answers_of("retain", when)}
        shares[when] = units([[float(a.verdict == "right") for a in answers[k]] for k in answers if k in keys])
    return {"n": len(keys), **before_after("recall", shares["before"], shares["after"], context.config.seed)}


def right_answers(context: AuditContext, group: str, when: str) -> list[float]:
    """Return 1 for right and 0 for anything else, by `units`."""
    answers = context.answers_of(group, when).values()
    return units([[float(a.verdict == "right") for a in found] for found in answers])
