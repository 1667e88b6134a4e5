"""Run evaluations and attacks on one context and gather their findings."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from sae_train.run.progress import Advance
from unlearn.auditing.attacks import ATTACKS
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext
from unlearn.auditing.evaluations import EVALUATIONS

PARTS = (*EVALUATIONS, *ATTACKS)


class Measured(NamedTuple):
    """What was found, and how many seconds each part took."""

    found: Findings
    seconds: dict[str, float]


def run_parts(context: AuditContext, names: Iterable[str], advance: Advance, *, model: str = "") -> Measured:
    """Run some parts one after the other.

    Args:
        context: What they measure on.
        names: Of evaluations and attacks.
        advance: Called with each name before it starts.
        model: Name of the model, where it is not the audited one: shown in front.
    """
    found, seconds = Findings(), {}
    for name in names:
        advance(1, now=f"{model}: {name}" if model else name)
        started = time.monotonic()
        result = _run(name, context)
        if result is not None:
            found = found.joined(replace(result, evaluated=(name,)))
        seconds[name] = round(time.monotonic() - started, 2)
    return Measured(found, seconds)


def _run(name: str, context: AuditContext) -> Findings | None:
    """Run one part; None where it has nothing to measure."""
    if name in EVALUATIONS:
        return EVALUATIONS[name](context)
    attack = ATTACKS[name](context)
    return None if attack is None else Findings(attacks={name: attack})
