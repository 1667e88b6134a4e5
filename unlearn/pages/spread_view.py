"""What the audit page shows of how recall spreads: over wordings, over what was known well or hardly."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from features.pages.plots import FAINT, TARGET, Number
from unlearn.auditing.audit_figures import Figure
from unlearn.auditing.audit_report import AuditReport
from unlearn.pages import plots

WORDINGS = {
    "recall": "mean over wordings",
    "any_wording": "right in any wording",
    "best_wording": "the wording answered most",
}


def spread_view(report: AuditReport) -> dict[str, Any] | None:
    """Return the figure of the wordings and the text of the one that is answered most; None in earlier audits."""
    if report.forget.any_wording is None:
        return None
    rows: list[tuple[str, Number, str, float]] = []
    for name, words in WORDINGS.items():
        for who, group, colour, opacity in (("", report.forget, TARGET, 1.0), ("vs ", report.control, FAINT, 0.7)):
            found: Figure | None = getattr(group, name)
            if found is not None:
                rows.append((f"{who}{words}", found.after.value, colour, opacity))
    svg = plots.value_bars("wordings", "Recall by wording, in the new model", rows)
    return {"svg": Markup(svg), "best": report.forget.best_wording_text, "quartiles": list(report.quartiles.items())}
