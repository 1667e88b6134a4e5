"""What the audit page shows of crosscoders: whose latents fire at which names, and those that fire at the targets."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from features.pages.plots import FAINT, KNOWN, TARGET, UNKNOWN, percent
from unlearn.auditing.audit_report import AuditReport
from unlearn.auditing.joint_figures import CrosscoderFigures
from unlearn.pages import plots

# Colour and opacity by kind, in the order of the bar.
KINDS = {
    "only_before": (TARGET, 1.0),
    "turned": (TARGET, 0.55),
    "between": (FAINT, 0.55),
    "shared": (KNOWN, 1.0),
    "only_after": (UNKNOWN, 1.0),
}
WORDS = {"only_before": "only before", "only_after": "only after"}
WHERE = {"targets": "targets", "kept": "kept names", "unknown": "never-known names", "text": "general text"}


def crosscoder_view(report: AuditReport) -> list[dict[str, Any]]:
    """Return, by crosscoder, the figure, the text and the rows of the table."""
    return [_one(number, found) for number, found in enumerate(report.crosscoders)]


def _one(number: int, found: CrosscoderFigures) -> dict[str, Any]:
    rows = {words: found.firings_by_kind[where] for where, words in WHERE.items() if where in found.firings_by_kind}
    counts = ", ".join(f"{n} {WORDS.get(kind, kind)}" for kind, n in found.latents_by_kind.items() if n)
    svg = plots.frac_bars(f"crosscoder-{number}", "Whose the latents are that fire", rows, KINDS)
    return {
        "svg": Markup(svg),
        "sae": found.sae,
        "hook_point": found.hook_point,
        "text": f"Of the latents that fire anywhere: {counts or 'none'}. "
        f"{percent(found.fvu)} of the variance on general text is left unexplained.",
        "rows": [(latent, WORDS.get(latent.kind, latent.kind)) for latent in found.latents],
    }
