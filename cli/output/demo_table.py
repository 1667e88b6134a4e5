"""What `wb demo` prints: the figures before and after, and the paths of the HTML pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.output.render import emit


def show_demo(summary: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the figures before and after, and where the pages are."""
    s = summary
    rise = s["loss_after"] / s["loss_before"] - 1
    rows = [
        ("targets: questions answered rightly", f"{s['recall_before']:.1%}", f"{s['recall_after']:.1%}"),
        ("targets: truth ranked first", "", f"{s['ranking_after']:.1%} (chance {s['ranking_chance']:.1%})"),
        (
            "neighbours: questions answered rightly",
            f"{s['neighbours_before']:.1%}",
            f"{s['neighbours_after']:.1%}",
        ),
        ("other known entities", f"{s['retain_before']:.1%}", f"{s['retain_after']:.1%}"),
        ("known entities that no training retained", f"{s['untouched_before']:.1%}", f"{s['untouched_after']:.1%}"),
        ("general-text loss", f"{s['loss_before']:.4f}", f"{s['loss_after']:.4f} ({rise:+.2%})"),
        (
            "fresh classifier AUROC, targets against unknown",
            f"{s['auroc_before']:.2f}",
            f"{s['auroc_after']:.2f}",
        ),
        ("targets called unknown by the old probe", "", f"{s['called_unknown']:.1%}"),
        ("recall with the old activation put back", "", f"{s['steer_back_recall']:.1%}"),
        ("verdict", "", s["verdict"]),
        ("SAE", "", f"{s['hook_point']}, FVU {s['fvu']:.3f}, L0 {s['l0']:.0f}, dead {s['frac_dead']:.1%}"),
        ("latents found (known, unknown)", "", f"{s['latents_known']}, {s['latents_unknown']}"),
        ("seconds", "", f"{s['seconds']:.0f}"),
        ("page of the latents", "", s["latents_page"]),
        ("page of the audit", "", s["audit_page"]),
    ]
    title = f"{s['n_targets']} entities forgotten in a world of {s['known']} known ones"
    emit(summary, as_json=as_json, title=title, rows=rows, columns=("", "before", "after"))
