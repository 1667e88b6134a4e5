"""The page of the planted benchmark, made from its cells alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.unlearning.planted_cells import Cell, highest, recall
from benchmarks.unlearning.unlearning_page import interval
from unlearn.auditing.attack_results import CLOZE, PROBABILITY, QA
from unlearn.auditing.audit_report import AuditReport

Read = Callable[[AuditReport], float]
BESIDE_TWIN: dict[str, Read] = {
    "relearned, probability": lambda r: highest(r, "relearn", PROBABILITY),
    "relearned, cloze": lambda r: highest(r, "relearn", CLOZE),
    "relearned, questions": lambda r: highest(r, "relearn", QA),
    "same form, cloze": lambda r: highest(r, "same-form", CLOZE),
    "steer-back": lambda r: r.attacks["steer-back"].recall_after.value,
    "64 draws": lambda r: r.attacks["sampling"].recall_after.value,
}
"""Column -> a figure that is shown less the twin's."""
BY_ITSELF: dict[str, Read] = {
    "recall": lambda r: recall(r.forget)[1],
    "ranked first": lambda r: float("nan") if r.forget.ranking is None else r.forget.ranking.after.value,
}
LOST: dict[str, Read] = {
    "neighbours lost": lambda r: 100 * (recall(r.neighbours)[0] - recall(r.neighbours)[1]),
    "others lost": lambda r: 100 * (recall(r.retain)[0] - recall(r.retain)[1]),
    "text loss, %": lambda r: float("nan") if r.utility is None else 100 * r.utility.rise,
    "drift AUROC": lambda r: r.detection["drift"].against_known.value if "drift" in r.detection else float("nan"),
}


def row(method: str, cells: list[tuple[Cell, Cell]]) -> str:
    """Return a row of the table: a method on each world, with the twin there."""
    whole = [(c, twin.audit) for c, twin in cells if c.report is not None]
    if not whole:
        return f"| {method} | {cells[0][0].error.splitlines()[0]} |"
    found = [
        *(interval([read(c.audit) for c, _ in whole]) for read in BY_ITSELF.values()),
        *(interval([read(c.audit) - read(twin) for c, twin in whole]) for read in BESIDE_TWIN.values()),
        *(interval([read(c.audit) for c, _ in whole]) for read in LOST.values()),
        "" if whole[0][0].setting is None else interval([c.kl for c, _ in whole]),
        f"{sum(c.seconds for c, _ in whole) / len(whole):.0f}",
        str(len(whole)),
    ]
    return f"| {method} | {' | '.join(found)} |"


def render(out: Path, kl: float) -> str:
    """Return the page."""
    folders = sorted(out.glob(f"seed-*/kl-{kl:g}"))
    read = [{p.stem: Cell.read(p) for p in folder.glob("*.json") if "-try-" not in p.stem} for folder in folders]
    rows = {
        n: [(cells[n], cells["twin"]) for cells in read if n in cells]
        for n in dict.fromkeys(n for c in read for n in c)
    }
    fixed = ("before", "twin")
    order = [n for n in fixed if n in rows] + sorted((n for n in rows if n not in fixed), key=lambda n: _depth(rows[n]))
    columns = (*BY_ITSELF, *BESIDE_TWIN, *LOST, "KL", "seconds", "worlds")
    lines = [
        "# Unlearning methods on worlds planted in a real model",
        "",
        f"All targets of a world removed together, every method up to a KL divergence of {kl:g} nats a token on general text; settings chosen on",
        "other targets of the first world. From `relearned` to `64 draws`: the figure less that of the twin, which never learned the targets (0 is as",
        "deep as the twin); the highest value on the attack's path. Lost: points of recall against the model before. Drift: how well the erased",
        "names are told from kept ones by what moved. Mean over worlds ± 95 % t-interval.",
        "",
        f"| method | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
        *(row(name, rows[name]) for name in order),
    ]
    return "\n".join(lines) + "\n"


def _depth(cells: list[tuple[Cell, Cell]]) -> float:
    """Return what the table is sorted by: the answer probability that relearning brings back, above the twin's."""
    read = BESIDE_TWIN["relearned, probability"]
    values = [read(c.audit) - read(twin.audit) for c, twin in cells if c.report is not None]
    return sum(values) / len(values) if values else float("inf")
