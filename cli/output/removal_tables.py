"""What `wb remove` prints: what became of the name, its price and the stations; or the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.output.render import emit

if TYPE_CHECKING:
    from unlearn.request.plan import Planned
    from unlearn.request.removing import Removed


def show_removed(removed: Removed, *, as_json: bool) -> None:
    """Print the figures of a request before and after, and where everything lies."""
    s = removed.summary()
    n_kept = sum(visit.is_kept for visit in removed.visits)
    rows = [
        ("verdict of the audit", "", s["verdict"]),
        ("what it said of the name", "", s["facts"]),
        *(
            (text, _share(s[f"{key}_recall_before"]), _share(s[f"{key}_recall_after"]))
            for key, text in (
                ("target", "questions about the name answered so"),
                ("neighbours", "the same of its neighbours"),
                ("retain", "the same of other known names"),
            )
        ),
        ("general-text loss", _loss(s["loss_before"]), _loss(s["loss_after"])),
        ("method", "", f"{s['method']} at {s['hook_point']}"),
        ("stations", "", f"{len(removed.visits) - n_kept} made, {n_kept} kept from an earlier run"),
        ("seconds", "", f"{s['seconds']:.0f}"),
        ("model", "", s["model"]),
        ("page", "", s["page"]),
        ("ledger", "", s["ledger"]),
    ]
    emit(s, as_json=as_json, title=f"{s['name']} ({s['kind']})", rows=rows, columns=("", "before", "after"))


def _share(value: float | None) -> str:
    """Return a share as a percentage."""
    return "–" if value is None else f"{value:.1%}"


def _loss(value: float | None) -> str:
    """Return a loss in nats."""
    return "–" if value is None else f"{value:.4f}"


def show_plan(stations: Sequence[Planned], name: str, *, as_json: bool) -> None:
    """Print every station with what it will take, and what all of them take together."""
    seconds, disk = sum(s.seconds for s in stations), sum(s.disk_bytes for s in stations if not s.is_kept)
    memory = max((s.memory_bytes for s in stations if not s.is_kept), default=0)
    rows = [
        (s.station, "kept" if s.is_kept else f"{s.seconds:,.0f}", _mib(s.memory_bytes), _mib(s.disk_bytes))
        for s in stations
    ]
    rows.append(("all", f"{seconds:,.0f}", _mib(memory), _mib(disk)))
    values = {
        "name": name,
        "seconds": seconds,
        "memory_bytes": memory,
        "disk_bytes": disk,
        "stations": [asdict(s) for s in stations],
    }
    columns = ("station", "seconds", "memory, MiB", "disk, MiB")
    emit(values, as_json=as_json, title=f"Plan for {name}: nothing was done", rows=rows, columns=columns)


def _mib(n_bytes: int) -> str:
    """Return bytes in MiB."""
    return f"{n_bytes / 2**20:,.0f}"
