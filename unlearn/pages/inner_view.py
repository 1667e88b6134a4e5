"""The matched null and the depth on the audit page."""

from __future__ import annotations

from typing import Any

from features.pages.plots import percent
from unlearn.auditing.audit_report import AuditReport
from unlearn.auditing.joint_figures import Depth, MatchedNull


def inner_view(report: AuditReport) -> dict[str, Any]:
    """Return what the templates show of both; None where the audit has not got them."""
    return {
        "depth": None if report.depth is None else _depth(report.depth),
        "matched": None if report.matched is None else _matched(report.matched),
    }


def _depth(depth: Depth) -> dict[str, str]:
    """Return the score, and in words how sure it is and which part is the shallowest."""
    name, least = min(depth.parts.items(), key=lambda item: item[1].depth.value)
    score = depth.score
    text = f"0 as before, 1 as never known; {score.low:.2f} to {score.high:.2f}. Least: {name}, {least.depth.value:.2f}"
    return {"value": f"{score.value:.2f}", "text": text}


def _matched(found: MatchedNull) -> dict[str, Any]:
    """Return the figures of the section, a row per place."""
    rows = []
    for name, place in found.places.items():
        statistic, most = max(place.statistics.items(), key=lambda item: abs(item[1].z))
        rows.append(
            {
                "name": name,
                "remaining": place.remaining,
                "detectable": place.detectable,
                "statistic": statistic,
                "z": most.z,
            }
        )
    by_history = ", ".join(f"{history} {percent(p)}" for history, p in found.p_by_history.items())
    return {
        "matched": "; ".join(found.matched),
        "n_groups": found.n_groups,
        "p": found.p,
        "statistic": found.statistic,
        "place": found.place,
        "z": f"{found.z:+.1f}",
        "sides": f"both tails count. By history of the names compared with: {by_history}",
        "rows": rows,
    }
