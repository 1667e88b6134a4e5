"""`wb train-sae`: train SAEs on an activation store; no language model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import SaeTrainConfig


@click.command(
    epilog=options.example(
        "wb train-sae --activations acts.h5 --hook-point layers.2 --arch topk --k 8 --expansion 2 \\",
        "  --tokens 400000 --batch-size 1024 --out sae",
    )
)
@options.activations_option
@options.other_option
@options.hook_point_option(multiple=True)
@options.out_option("The SAE folder; SAELens reads it as it is. Of several SAEs: a folder with one for each.")
@options.config_options(
    SaeTrainConfig,
    without=("hook_point", "seed"),
    names={"matryoshka_prefixes": "--matryoshka-prefix", "hierarchical_shares": "--hierarchical-share"},
    repeatable=("k", "expansion"),
)
@options.spread_option
@options.run_options(resume=True, wandb=True, several_seeds=True)
def command(
    activations: Path,
    other: Path | None,
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
    from cli.output.sae_tables import show_saes
    from sae_train import train_saes
    from sae_train.run.processes import joined_processes

    where = {"out": out, "device": device, "overwrite": overwrite, "resume": resume, "wandb": wandb, "spread": spread}
    with joined_processes() as processes:
        saes = train_saes(activations, other=other, **where, processes=processes, **given)
    if processes.is_first:
        show_saes(saes, out, as_json=as_json)
