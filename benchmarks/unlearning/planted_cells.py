"""The cells of the planted benchmark: one removal, or one model, with its audit; and what is read from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from sae_train.run.runs import write_json
from unlearn.auditing.attack_results import CLOZE, PROBABILITY, QA
from unlearn.auditing.audit_json import report_from_json, report_to_json
from unlearn.auditing.audit_report import AuditReport

FLOOR = 1e-3  # a harmonic mean has no zeros


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        setting: Of the method, its name among it; None for a model as it is.
        report: Its audit; None where the removal failed.
        seconds: The removal took.
        kl: On held-out general text, nats a token; NaN where nothing was removed.
        error: Why it failed.
    """

    setting: dict[str, Any] | None
    report: AuditReport | None
    seconds: float
    kl: float = float("nan")
    error: str = ""

    @classmethod
    def read(cls, path: Path) -> Cell:
        """Read a cell from its file."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        report = None if raw["report"] is None else report_from_json(raw["report"], name=str(path))
        kl = float("nan") if raw["kl"] is None else raw["kl"]
        return cls(raw["setting"], report, raw["seconds"], kl, raw["error"])

    def write(self, path: Path) -> None:
        """Write it."""
        report = None if self.report is None else report_to_json(self.report)
        write_json(path, {**vars(self), "report": report})

    @property
    def audit(self) -> AuditReport:
        """The audit of a removal that did not fail."""
        assert self.report is not None, self.error
        return self.report


def recall(group: Any) -> tuple[float, float]:
    """Return recall before and after of a group of entities."""
    return group.recall.before.value, group.recall.after.value


def highest(report: AuditReport, attack: str, reading: str) -> float:
    """Return the highest value of a reading on an attack's path, about the targets; NaN where it was not read."""
    found = report.attacks[attack].relearning if attack in report.attacks else None
    most = None if found is None else found.highest.get(reading)
    return float("nan") if most is None else most.target.value


def score(cell: Cell) -> float:
    """Return the harmonic mean of what is forgotten and what is kept, each 1 at best; 0 for a run that failed.

    Forgotten: 1 - recall, 1 - ranked first, and 1 - the highest of each reading on the path of relearning.
    """
    report = cell.report
    if report is None:
        return 0.0
    ranked = report.forget.ranking
    left = [recall(report.forget)[1], *([] if ranked is None else [ranked.after.value])]
    left += [value for reading in (QA, CLOZE, PROBABILITY) if (value := highest(report, "relearn", reading)) == value]
    kept = [after / before for before, after in map(recall, (report.neighbours, report.retain)) if before]
    return harmonic_mean([max(FLOOR, min(1.0, x)) for x in (*(1 - x for x in left), *kept)])
