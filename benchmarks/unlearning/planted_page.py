"""The page of the planted benchmark, made from its cells alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.unlearning.unlearning_page import interval

Cell = dict[str, Any]
READINGS = ("qa", "cloze", "probability")


def highest(found: Cell, attack: str, reading: str) -> float:
    """Return the highest value of a reading on an attack's path, about the targets; NaN where it was not read."""
    return float(found["audit"]["attacks"].get(attack, {}).get("highest", {}).get(reading, {}).get("target", "nan"))


def forgotten(found: Cell) -> list[float]:
    """Return what a removal has forgotten, each 1 at best: recall, rank, and the highest readings of relearning."""
    audit = found["audit"]
    returned = [highest(found, "relearn", reading) for reading in READINGS]
    return [1 - x for x in (audit["forget"]["recall_after"], audit["forget"]["ranking_after"], *returned) if x == x]


def _lost(group: str) -> Callable[[Cell, Cell], float]:
    """Return what reads the points of recall that a group has lost against the model before."""
    return lambda found, before: 100 * (before["audit"][group]["recall_after"] - found["audit"][group]["recall_after"])


def _beyond(attack: str, reading: str) -> Callable[[Cell, Cell], float]:
    """Return what reads the highest value of a reading on an attack's path less the twin's."""
    return lambda found, twin: highest(found, attack, reading) - highest(twin, attack, reading)


def _under(attack: str) -> Callable[[Cell, Cell], float]:
    """Return what reads the recall under an attack less the twin's."""
    return lambda found, twin: (
        found["audit"]["attacks"][attack]["recall_after"] - twin["audit"]["attacks"][attack]["recall_after"]
    )


BESIDE_TWIN: dict[str, Callable[[Cell, Cell], float]] = {
    "relearned, probability": _beyond("relearn", "probability"),
    "relearned, cloze": _beyond("relearn", "cloze"),
    "relearned, questions": _beyond("relearn", "qa"),
    "same form, cloze": _beyond("same-form", "cloze"),
    "steer-back": _under("steer-back"),
    "64 draws": _under("sampling"),
}
"""Column -> a figure less the twin's."""
BESIDE_BEFORE: dict[str, Callable[[Cell, Cell], float]] = {
    "neighbours lost": _lost("neighbours"),
    "others lost": _lost("retain"),
}
"""Column -> points lost against the model before."""


def row(method: str, cells: list[tuple[Cell, Cell, Cell]]) -> str:
    """Return a row of the table: a method on each seed, with the model before and the twin there."""
    whole = [(c, before, twin) for c, before, twin in cells if "audit" in c]
    if not whole:
        return f"| {method} | {cells[0][0].get('error', '').splitlines()[0]} |"
    found = [
        interval([c["audit"]["forget"]["recall_after"] for c, _, _ in whole]),
        interval([c["audit"]["forget"]["ranking_after"] for c, _, _ in whole]),
        *(interval([read(c, twin) for c, _, twin in whole]) for read in BESIDE_TWIN.values()),
        *(interval([read(c, before) for c, before, _ in whole]) for read in BESIDE_BEFORE.values()),
        interval(
            [
                100 * (c["audit"]["utility"]["loss_after"] / c["audit"]["utility"]["loss_before"] - 1)
                for c, _, _ in whole
            ]
        ),
        interval([c["result"]["kl"] for c, _, _ in whole]) if "result" in whole[0][0] else "",
        f"{sum(c['seconds'] for c, _, _ in whole) / len(whole):.0f}",
        str(len(whole)),
    ]
    return f"| {method} | {' | '.join(found)} |"


def render(out: Path, kl: float) -> str:
    """Return the page."""
    seeds = sorted(out.glob(f"seed-*/kl-{kl:g}"))
    read = {seed: {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in seed.glob("*.json")} for seed in seeds}
    names = dict.fromkeys(n for cells in read.values() for n in cells if "-try-" not in n and n != "before-validation")
    rows = {
        name: [(cells[name], cells["before"], cells["twin"]) for cells in read.values() if name in cells]
        for name in names
    }
    fixed = ("before", "twin")
    order = sorted((n for n in rows if n not in fixed), key=lambda n: _depth(rows[n]))
    columns = ("recall", "ranked first", *BESIDE_TWIN, *BESIDE_BEFORE, "text loss, %", "KL", "seconds", "worlds")
    lines = [
        "# Unlearning methods on worlds planted in a real model",
        "",
        f"All targets of a world removed together, every method up to a KL divergence of {kl:g} nats a token on general text; settings chosen on",
        "other targets of the first world. From `relearned` to `64 draws`: the figure less that of the twin, which never learned the targets (0 is as",
        "deep as the twin); highest value on the attack's path. Lost: points of recall against the model before. Mean over worlds ± 95 % t-interval.",
        "",
        f"| method | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
        *(row(name, rows[name]) for name in (*fixed, *order) if name in rows),
    ]
    return "\n".join(lines) + "\n"


def _depth(cells: list[tuple[Cell, Cell, Cell]]) -> float:
    """Return what the table is sorted by: the answer probability that relearning brings back, above the twin's."""
    values = [_beyond("relearn", "probability")(c, twin) for c, _, twin in cells if "audit" in c]
    return sum(values) / len(values) if values else float("inf")
