"""`wb train-sae`: train SAEs on an activation store, or on activations that are computed as they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options


@click.command(
    epilog=options.example(
        "wb train-sae --activations acts.h5 --hook-point layers.2 --arch topk --k 8 --expansion 2 \\",
        "  --tokens 400000 --batch-size 1024 --out sae",
    )
)
@options.rows_options
@options.hook_point_option(multiple=True)
@options.out_option("The SAE folder; SAELens reads it as it is. Of several SAEs: a folder with one for each.")
@options.sae_train_options
@options.spread_option
@options.run_options(resume=True, wandb=True, several_seeds=True)
def command(
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
    read once. With --model and --text in the place of --activations nothing is stored: rows are computed as they are
    needed, shuffled within --buffer-mb, and again in every pass over the text. Started by torchrun, processes share
    the work: torchrun --nproc-per-node 2 --no-python wb train-sae ...
    """
    from cli.output.sae_tables import show_saes
    from cli.usage import rows_of
    from sae_train import train_saes
    from sae_train.run.processes import joined_processes

    where = {"out": out, "device": device, "overwrite": overwrite, "resume": resume, "wandb": wandb, "spread": spread}
    with joined_processes() as processes:
        rows = rows_of(given, processes.own_device(device))
        saes = train_saes(rows, other=other, **where, processes=processes, **given)
    if processes.is_first:
        show_saes(saes, out, as_json=as_json)
