"""What `wb find-entity-latents` prints: the findings in words, and a table of the selected latents."""

from __future__ import annotations

from pathlib import Path

from cli.output.render import emit, note
from features.analysis.store import LatentAnalysis
from features.causal.checks import gate_line
from features.pages.latents_view import HEADS, shown_rows


def show_latents(found: LatentAnalysis, out: Path, *, as_json: bool) -> None:
    """Print the selected latents; the sentences go to stderr."""
    for row in found.tables["finding"]:
        note(row["sentence"])
    note(gate_line(found))
    summary = {**found.summary(), "page": str(out.with_suffix(".html"))}
    together = f"selected together: AUROC {summary['score_auroc']}; probe: {summary['probe_auroc']:.3f}"
    emit(summary, as_json=as_json, title=f"Latents ({together})", columns=HEADS, rows=shown_rows(found))
