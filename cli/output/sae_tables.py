"""What `wb train-sae` prints (one SAE's figures, or a table of several), and the HTML page of every SAE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.output.render import emit
from features.pages.training_page import write_training_page
from sae_train import Sae
from sae_train.text_files import read_json

TABLE = ("fvu", "l0", "frac_dead", "tokens_per_s")  # of several SAEs


def show_saes(saes: Sequence[Sae], out: Path, *, as_json: bool) -> None:
    """Write the pages, print the figures."""
    for sae in saes:
        write_training_page(folder_of(sae))
    if len(saes) == 1:
        emit({"out": str(out), **saes[0].metrics}, as_json=as_json, title=f"SAE at {saes[0].hook_point}")
        return
    rows = [(sae.name, *(sae.metrics[name] for name in TABLE)) for sae in saes]
    found = [{"out": str(sae.folder), **settings_of(sae), **sae.metrics} for sae in saes]
    emit({"out": str(out), "saes": found}, as_json=as_json, title=f"SAEs in {out}", rows=rows, columns=("SAE", *TABLE))


def folder_of(sae: Sae) -> Path:
    """Return where an SAE lies."""
    assert sae.folder is not None
    return sae.folder


def settings_of(sae: Sae) -> dict[str, Any]:
    """Return the settings in which SAEs trained together may differ, from the config in its folder."""
    config = read_json(folder_of(sae) / "config.json")
    return {name: config[name] for name in ("hook_point", "k", "seed")}
