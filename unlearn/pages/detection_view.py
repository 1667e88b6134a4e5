"""What the audit page shows of detection: who can tell which names were erased, and how the weights changed."""

from __future__ import annotations

from statistics import median
from typing import Any

from markupsafe import Markup

from features.pages.latents_page import figure_text
from features.pages.plots import MUTED, TARGET, UNKNOWN, Number, Series, interval_rows, percent
from sae_train.intervals import Interval
from unlearn.auditing.audit_figures import MatrixChange
from unlearn.auditing.audit_report import AuditReport
from unlearn.pages import plots

MAX_BARS = 8  # matrices whose share is drawn; the table has more


def detection_view(report: AuditReport) -> dict[str, Any] | None:
    """Return the figure and the rows of the scores, and what is shown of the weights."""
    found = report.detection
    if not found:
        return None
    known, unknown = ([getattr(t, side) for t in found.values()] for side in ("against_known", "against_unknown"))
    control: list[Number] = [t.known_against_unknown for t in found.values()]
    none: list[Number] = [None] * len(found)
    series = [
        _dots(known, TARGET),
        _dots(unknown, UNKNOWN),
        Series(control, none, none, MUTED, filled=False),
    ]
    spoken = "; ".join(
        f"{name}: {figure_text(t.against_known.value, 2)} against kept names, "
        f"{figure_text(t.against_unknown.value, 2)} against never-known ones"
        for name, t in found.items()
    )
    labels = [f"{name}{'' if t.needs_before else ', after alone'}" for name, t in found.items()]
    svg = interval_rows("detection", f"AUROC of an outsider's scores. {spoken}", labels, series)
    return {"svg": Markup(svg), "rows": list(found.items()), "weights": _weights(report)}


def _dots(intervals: list[Interval], colour: str) -> Series:
    """Return one group's figures."""
    return Series([i.value for i in intervals], [i.low for i in intervals], [i.high for i in intervals], colour)


def _weights(report: AuditReport) -> dict[str, Any] | None:
    """Return the figure, the table and the summary of the weights' change; None where nothing changed."""
    change = report.weight_change
    if change is None or not change.matrices:
        return None
    rows = change.matrices
    bars: list[tuple[str, Number, str, float]] = [(_short(m), m.frac_top, TARGET, 1.0) for m in rows[:MAX_BARS]]
    ranks = median(m.effective_rank / m.full_rank for m in rows)
    return {
        "svg": Markup(plots.value_bars("weight-change", "Share of the change in its first direction", bars)),
        "rows": rows,
        "text": f"{change.n_changed} of {change.n_matrices} matrices changed; their effective rank is {percent(ranks)} "
        f"of the full one in the median of the {len(rows)} most changed.",
    }


def _short(matrix: MatrixChange) -> str:
    """Return a parameter's name without what all of them have in front and behind."""
    return matrix.name.removeprefix("model.").removesuffix(".weight")
