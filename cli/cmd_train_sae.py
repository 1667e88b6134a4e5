"""`wb train-sae`: activation store -> SAE folders, without any language model in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options
from sae_train.config import SPREADS, SaeTrainConfig

if TYPE_CHECKING:
    from sae_train import Sae

TABLE = ("fvu", "l0", "frac_dead", "tokens_per_s")  # of several SAEs


@click.command(
    epilog=options.example(
        "wb train-sae --activations acts.h5 --hook-point layers.2 --arch topk --k 8 --expansion 2 \\",
        "  --tokens 400000 --batch-size 1024 --out sae",
    )
)
@options.activations_option
@options.hook_point_option(multiple=True)
@options.out_option("The SAE folder; SAELens reads it as it is. Of several SAEs: a folder with one for each.")
@options.config_options(
    SaeTrainConfig,
    without=("hook_point", "seed"),
    names={"matryoshka_prefixes": "--matryoshka-prefix"},
    repeatable=("k", "expansion"),
)
@click.option(
    "--spread",
    type=click.Choice(SPREADS),
    default="auto",
    show_default=True,
    help="What processes started by torchrun divide: whole SAEs, or each batch; auto: SAEs where there are enough.",
)
@options.wandb_option
@options.seed_option(multiple=True)
@options.device_option
@options.overwrite_option
@options.resume_option
@options.common_options
def command(
    activations: Path,
    out: Path,
    device: str,
    spread: str,
    wandb: str | None,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Train sparse autoencoders on one or more hook points of an activation store.

    Whole documents are held out; FVU, L0 and dead latents are measured on them. --resume continues from the
    last checkpoint to the same weights. `training.html` in the folder shows the curves. Where --hook-point, --k,
    --expansion or --seed are repeated, every combination is trained, those at one hook point on the same batches,
    read once. Started by torchrun, processes share the work: torchrun --nproc-per-node 2 --no-python wb train-sae ...
    """
    from cli.render import emit
    from features.pages.training_page import write_training_page
    from sae_train import train_saes
    from sae_train.run.processes import joined_processes

    where = {"out": out, "device": device, "overwrite": overwrite, "resume": resume, "wandb": wandb, "spread": spread}
    with joined_processes() as processes:
        saes = train_saes(activations, **where, processes=processes, **given)
    if not processes.is_first:
        return
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
    config = json.loads((folder_of(sae) / "config.json").read_text(encoding="utf-8"))
    return {name: config[name] for name in ("hook_point", "k", "seed")}
