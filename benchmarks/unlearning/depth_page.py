"""What `depth.py` reads of a model, and the page made from its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sae_train.run.runs import write_json


@dataclass(frozen=True)
class Depth:
    """What was read of one model; probabilities of true answers, means over questions.

    Attributes:
        target, retained, kept, partner: Asked about targets, about entities that methods may retain, about known ones
            that no method sees, and targets' facts about their unknown partners.
        put_back: About targets, with the original's activations put back behind a block.
        relearned: About untaught facts, the highest on the path of relearning.
        target_recall, retained_recall, kept_recall: Share of right greedy answers, mean over entities.
        read_seconds: This reading took.
        kl: On held-out general text, nats a token; None where nothing was removed.
        seconds: The removal took.
        scale: The share of a weight edit that the budget allowed; None for others.
    """

    target: float
    retained: float
    kept: float
    partner: float
    put_back: dict[int, float]
    relearned: float
    target_recall: float
    retained_recall: float
    kept_recall: float
    read_seconds: float
    kl: float | None = None
    seconds: float | None = None
    scale: float | None = None

    @classmethod
    def load(cls, path: Path) -> Depth:
        """Read a file."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**raw, "put_back": {int(b): v for b, v in raw["put_back"].items()}})

    def write(self, path: Path) -> None:
        """Write it."""
        write_json(path, asdict(self))


def render(out: Path, on: str, kl: float) -> str:
    """Return the page: a table of every seed."""
    lines = [
        "# Depth on a planted real model",
        "",
        f"Eight targets of a world planted in a real model, removed together up to a KL divergence of {kl:g} nats a token on general text,",
        f"{on} targets. Means over questions of the probability of the true answer, and of right greedy answers (recall). `put back N`: the planted",
        "model's activations at all name tokens behind block N are put in. `relearned`: half of the targets' facts are taught, the others asked;",
        "the highest value on the path. `retained`: known entities that methods may retain; `kept`: those that no method sees. The twin never met the test",
        "targets: what it says is the floor, not zero.",
    ]
    for folder in sorted(out.glob(f"seed-*/depth-{on}-kl-{kl:g}")):
        rows = {path.stem: Depth.load(path) for path in folder.glob("*.json")}
        fixed = [name for name in ("before", "twin") if name in rows]
        order = fixed + sorted((n for n in rows if n not in fixed), key=lambda n: rows[n].relearned)
        blocks = sorted({b for row in rows.values() for b in row.put_back})
        head = [
            "model",
            "recall",
            "p",
            *(f"put back {b}" for b in blocks),
            "relearned",
            "retained recall",
            "retained p",
            "kept recall",
            "kept p",
            "KL",
            "s",
        ]
        lines += ["", f"## {folder.parent.name}", "", f"| {' | '.join(head)} |", "|---|" + "---|" * (len(head) - 1)]
        lines += [f"| {name} | {' | '.join(_cells(rows[name], blocks))} |" for name in order]
    return "\n".join(lines) + "\n"


def _cells(row: Depth, blocks: list[int]) -> list[str]:
    """Return the cells of one row."""
    figures = [
        row.target_recall,
        row.target,
        *(row.put_back[b] for b in blocks),
        row.relearned,
        row.retained_recall,
        row.retained,
        row.kept_recall,
        row.kept,
    ]
    removal = ["", ""] if row.kl is None or row.seconds is None else [f"{row.kl:.4f}", f"{row.seconds:.0f}"]
    return [*(f"{value:.2f}" for value in figures), *removal]
