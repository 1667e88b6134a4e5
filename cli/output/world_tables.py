"""What `wb world` prints: a world that was built, or a pair that was planted."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.output.render import emit
from sae_train.run.progress import value_text

if TYPE_CHECKING:
    from features.factworld.build import WorldReport
    from features.factworld.planting.planted import Planted

PARTS = ("targets", "retained", "mentioned", "never_met")


def show_world(report: WorldReport, seed: int, *, as_json: bool) -> None:
    """Show what the model of a world knows."""
    values = {"out": str(report.folder), **asdict(report.facts), "seconds": report.seconds}
    emit(values, as_json=as_json, title=f"World {seed}")


def show_planted(planted: Planted, *, as_json: bool) -> None:
    """Show recall of held-out wordings by part and model, and the loss on general text."""
    figures = planted.figures
    models = [name for name in ("base", "model", "twin") if name in figures]
    rows: list[list[object]] = []
    for part in (p for p in PARTS if figures[models[0]]["recall"][p]["n_entities"]):
        found = [figures[name]["recall"][part] for name in models]
        ends = [(value_text(f["heldout"]), value_text(f["heldout_low"]), value_text(f["heldout_high"])) for f in found]
        rows.append([f"recall, {part}", *(f"{value} [{low}, {high}]" for value, low, high in ends)])
    rows.append(["loss on general text", *(value_text(figures[name]["general_loss"]) for name in models)])
    result = {"out": planted.folder, "targets": list(planted.roles.targets), **figures}
    emit(result, as_json=as_json, title=f"Planted: {planted.folder}", rows=rows, columns=["", *models])
