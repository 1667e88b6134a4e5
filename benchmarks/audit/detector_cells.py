"""Cells of the bench of known truth: one audited model each, kept as one file, and what is truly left in it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.audit.audit_calibration import judged
from sae_train.intervals import Interval
from sae_train.run.runs import write_json
from sae_train.text_files import read_json
from unlearn.auditing.audit_json import report_from_json, report_to_json
from unlearn.auditing.audit_report import AuditReport
from unlearn.auditing.policy import AuditPolicy, default_policy

FORGOTTEN, NOT, APART = "forgotten", "not", "apart"
CERTAIN = {"never": FORGOTTEN, "untouched": NOT, "half": NOT, "damaged": NOT}
"""Families whose truth is by construction; that of the others is decided by longer lessons."""
MARGIN = 0.10  # how far the targets' recall has to lie above the control's interval to have come back


@dataclass(frozen=True)
class Evidence:
    """What lessons longer than the audit's bring back of untaught facts; the audit does not use it.

    Attributes:
        target, control: Recall of targets and of never-known entities where the targets lie most above.
    """

    target: float
    control: Interval


@dataclass(frozen=True)
class Cell:
    """One audited model.

    Attributes:
        seed: Of the world.
        family: never, half, untouched, damaged, method, near miss, cheat.
        name: Which one of the family.
        draw: Which request.
        report: Of the audit.
        evidence: Of longer lessons; None where the truth is by construction.
        seconds: That it all took.
    """

    seed: int
    family: str
    name: str
    draw: int
    report: AuditReport
    evidence: Evidence | None
    seconds: float

    @property
    def truth(self) -> str:
        """Return `forgotten`, `not`, or `apart` for a removal from which longer lessons bring nothing back."""
        if self.family in CERTAIN:
            return CERTAIN[self.family]
        if self.evidence is None:
            return APART
        return NOT if self.evidence.target > self.evidence.control.high + MARGIN else APART


def cell_path(out: Path, seed: int, name: str, draw: int) -> Path:
    """Return where a cell is kept.

    Example:
        >>> cell_path(Path("run"), 1, "redirect, no guard", 0).as_posix()
        'run/cells/1-redirect-no-guard-0.json'
    """
    return out / "cells" / f"{seed}-{re.sub(r'[^a-z0-9.]+', '-', name.lower()).strip('-')}-{draw}.json"


def keep(out: Path, cell: Cell) -> Path:
    """Write a cell whole or not at all, without its long tables."""
    path = cell_path(out, cell.seed, cell.name, cell.draw)
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"seed": cell.seed, "family": cell.family, "name": cell.name, "draw": cell.draw}
    if cell.evidence is not None:
        found["evidence"] = {"target": cell.evidence.target, "control": list(astuple(cell.evidence.control))}
    report = report_to_json(replace(cell.report, walk={}, answers=()))
    write_json(path, {**found, "seconds": cell.seconds, "report": report})
    return path


def kept(out: Path) -> list[Cell]:
    """Return the cells so far, judged by the shipped policy of today."""
    return [read_cell(path) for path in sorted((out / "cells").glob("*.json"))]


def judged_by(cells: Sequence[Cell], policy: AuditPolicy) -> list[Cell]:
    """Return the cells, judged by another policy."""
    return [replace(cell, report=judged(cell.report, policy)) for cell in cells]


def read_cell(path: Path) -> Cell:
    """Return one cell, judged by the shipped policy of today."""
    raw = read_json(path, expected="a cell of the bench")
    evidence = raw.get("evidence")
    return Cell(
        seed=raw["seed"],
        family=raw["family"],
        name=raw["name"],
        draw=raw["draw"],
        report=judged(report_from_json(raw["report"], name=str(path)), default_policy()),
        evidence=None if evidence is None else Evidence(evidence["target"], Interval(*evidence["control"])),
        seconds=raw["seconds"],
    )


def of_truth(cells: Sequence[Cell], *truths: str) -> list[Cell]:
    """Return the cells of some truths."""
    return [c for c in cells if c.truth in truths]


def as_line(cell: Cell) -> str:
    """Return what a run prints of a cell."""
    depth = cell.report.depth
    words = {"truth": cell.truth, "verdict": cell.report.verdict, "seconds": round(cell.seconds, 1)}
    words |= {} if depth is None else {"depth": round(depth.score.value, 3)}
    return json.dumps({"seed": cell.seed, "name": cell.name, "draw": cell.draw, **words})
