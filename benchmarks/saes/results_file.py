"""The results file of a benchmark of SAEs: its options, its runs by name, and what they were begun with."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def options(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that these benchmarks share; the module's docstring is its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--small", action="store_true")
    return parser


class ResultsFile:
    """`results.json` in a folder: figures of runs by name, written as they come, so that none is measured twice.

    Args:
        parser: Told when the file was begun with other sizes; it ends the program.
        out: The folder, which is made.
        sizes: What is measured, whole numbers by name.

    Attributes:
        found: What is in the file; `runs` among it.
    """

    def __init__(self, parser: argparse.ArgumentParser, out: Path, sizes: dict[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "results.json"
        self.found: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {"runs": {}}
        if self.found.setdefault("sizes", sizes) != sizes:
            parser.error(f"{self.path} was begun with {self.found['sizes']}: take another --out")

    @property
    def runs(self) -> dict[str, Any]:
        """Return the runs by name."""
        return self.found["runs"]

    def keep(self, runs: dict[str, Any]) -> None:
        """Add runs, say them, and write the file with the date and torch's version."""
        self.runs.update(runs)
        self.found |= {"date": today(), "torch": torch.__version__}
        for name, figures in runs.items():
            sys.stderr.write(f"{name} {figures}\n")
        self.path.write_text(json.dumps(self.found, indent=1), encoding="utf-8")


def today() -> str:
    """Return the date."""
    return f"{datetime.now(UTC):%Y-%m-%d}"
