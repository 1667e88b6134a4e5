"""An audit as pandas tables: one row per figure, one row per check. pandas is imported when a table is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from features.stats.probe import Interval
from unlearn.auditing.attack_results import READINGS
from unlearn.auditing.audit_figures import Figure, GroupResult
from unlearn.auditing.audit_report import AuditReport, Findings

GROUPS = ("forget", "neighbours", "retain", "untouched", "unknown", "control")


class Row(NamedTuple):
    """One figure of either model; bounds are NaN where it has no interval, values where it was not measured.

    Attributes:
        group: The group of entities, or the text, that it is about.
        figure: Which one.
        before, before_low, before_high: By the original model, with its 95 % interval, in the figure's own unit.
        after, after_low, after_high: By the unlearned model.
    """

    group: str
    figure: str
    before: float
    before_low: float
    before_high: float
    after: float
    after_low: float
    after_high: float


def figures_table(report: AuditReport) -> Any:
    """Return a pandas `DataFrame` with the columns of `Row`."""
    from pandas import DataFrame

    return DataFrame(figure_rows(report), columns=list(Row._fields))


def checks_table(report: AuditReport) -> Any:
    """Return a pandas `DataFrame` with the fields of `Check` as columns."""
    from pandas import DataFrame

    names = ["name", "status", "value", "low", "high", "rule", "threshold", "text"]
    return DataFrame([asdict(check) for check in report.checks], columns=names)


def figure_rows(found: Findings) -> list[Row]:
    """Return every figure that has a value before or after: groups, price, behaviour, inside, attacks."""
    return [*_groups(found), *_price(found), *_inside(found), *_attacks(found)]


def _groups(found: Findings) -> Iterator[Row]:
    """Yield what is said about each group of entities."""
    groups: dict[str, GroupResult] = {name: getattr(found, name) for name in GROUPS}
    for name, group in {**groups, **found.neighbour_kinds}.items():
        for part in fields(group):
            figure = getattr(group, part.name)
            if isinstance(figure, Figure):
                yield _row(name, part.name, figure.before, figure.after)
        if group.rouge_l_before is not None and group.rouge_l_after is not None:
            yield _row(name, "rouge_l", group.rouge_l_before, group.rouge_l_after)


def _price(found: Findings) -> Iterator[Row]:
    """Yield text loss, free writing and the kinds of answers."""
    if found.utility is not None:
        yield _row("text", "loss", found.utility.loss_before, found.utility.loss_after)
    if found.writing is not None:
        yield _row("text", "entropy", found.writing.entropy_before, found.writing.entropy_after)
        yield _row("text", "repetition", found.writing.repetition_before, found.writing.repetition_after)
    if found.behaviour is not None:
        after = found.behaviour.after.by_kind()
        for kind, share in found.behaviour.before.by_kind().items():
            yield _row("behaviour", kind, share, after[kind])


def _inside(found: Findings) -> Iterator[Row]:
    """Yield classifiers, probes and what is read off, by place."""
    for name, place in found.indistinguishability.items():
        yield _row("indistinguishability", f"AUROC at {name}", place.auroc_before, place.auroc)
    for group, votes in (("probe", found.probe), ("fresh_probe", found.fresh_probe)):
        if votes is not None:
            yield _row(group, f"called unknown at {votes.hook_point}", votes.unknown_before, votes.unknown_after)
    for group, places in (("logit_lens", found.logit_lens), ("value_probe", found.value_probe)):
        for name, read in places.items():
            yield _row(group, f"true answer first at {name}", read.before, read.after)
    for name, place in (found.matched.places if found.matched else {}).items():
        yield _row("matched_null", f"way to known names at {name}", math.nan, place.remaining)
    for name, told in found.detection.items():
        yield _row("detection", f"AUROC of {name} against kept", math.nan, told.against_known)
        yield _row("detection", f"AUROC of {name} against never-known", math.nan, told.against_unknown)


def _attacks(found: Findings) -> Iterator[Row]:
    """Yield recall under the worst setting of each attack, and the highest readings of those by lessons."""
    for name, attack in found.attacks.items():
        yield _row("attacks", f"recall under {name}", attack.worst.before, attack.recall_after)
        for reading, most in (attack.relearning.highest if attack.relearning else {}).items():
            yield _row("attacks", f"highest {READINGS[reading]} under {name}", most.before, most.target)


def _row(group: str, figure: str, before: Interval | float, after: Interval | float) -> Row:
    """Return one row."""
    sides = [side if isinstance(side, Interval) else Interval(side, math.nan, math.nan) for side in (before, after)]
    return Row(group, figure, *(number for side in sides for number in (side.value, side.low, side.high)))
