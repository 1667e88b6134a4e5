"""What `wb audit` prints: the checks of one audit, or one row for every removal of a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.output.render import emit
from unlearn.auditing.audit_json import report_to_json
from unlearn.auditing.audit_report import AuditReport
from unlearn.removals.reaudit import Removal, summary_of

COLUMNS = ("entry", "forget", "verdict then", "now", "recall", "ranked first", "came back")


def show_audit(report: AuditReport, out: Path, *, as_json: bool) -> None:
    """Print the verdict and every check."""
    page = out / "audit.html"
    emit(
        {**report_to_json(report), "page": str(page)},
        as_json=as_json,
        title=f"Verdict: {report.verdict}{_depth(report)} ({page})",
        columns=("check", "value", "threshold", "status"),
        rows=[(c.name, c.value, f"{c.rule} {c.threshold:.3g}", c.status) for c in report.checks],
    )


def _depth(report: AuditReport) -> str:
    """Say the depth with its interval, where there is one."""
    if report.depth is None:
        return ""
    score = report.depth.score
    return f", depth {score.value:.2f} ({score.low:.2f} to {score.high:.2f})"


def show_removals(removals: Sequence[Removal], ledger: Path, out: Path, *, as_json: bool) -> None:
    """Print which removals came back."""
    result = summary_of(removals, ledger, out)
    emit(
        result,
        as_json=as_json,
        title=f"{result['came_back']} of {len(removals)} removals came back in {result['unlearned']}",
        columns=COLUMNS,
        rows=[list(row.values())[:-1] for row in result["removals"]],
    )
