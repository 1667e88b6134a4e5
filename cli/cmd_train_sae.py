"""`wb train-sae`: activation store -> SAE folders, without any language model in memory."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import SPREADS, SaeTrainConfig

TABLE = ("fvu", "l0", "frac_dead", "tokens_per_s")  # of several SAEs
SHOWN = ("step", "fvu", "mse", "l0", "frac_dead")  # beside the progress, where the loss has them


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
    from features.training_page import write_training_page
    from sae_train.activations.store import ActivationStore
    from sae_train.processes import joined_processes
    from sae_train.progress import shown
    from sae_train.runs import claim_output, clear_output
    from sae_train.sae_grid import sae_jobs
    from sae_train.trainer import check_jobs, train_saes

    with joined_processes() as processes:
        claim_output(out, overwrite=overwrite, resume=resume)
        sae_jobs(out, **given)  # refuses bad values before a file is opened
        processes.wait()
        with ActivationStore(activations) as store:
            jobs = sae_jobs(out, **{**given, "hook_points": [store.hook_point(name) for name in given["hook_points"]]})
            check_jobs(jobs, store, device=device, processes=processes, spread=spread)
            if processes.is_first and not resume:
                clear_output(out, overwrite=overwrite)
            processes.wait()
            n_rows = (jobs[0].config.tokens or store.n_rows) * len(jobs)
            latest: dict[str, float] = {}
            bar = shown("training", n_rows, unit="tokens")
            with bar if processes.is_first else nullcontext(_quiet) as advance:
                results = train_saes(
                    store,
                    jobs,
                    out,
                    device=device,
                    resume=resume,
                    wandb=wandb,
                    log=latest.update,
                    advance=lambda n, _terms: advance(n, **{k: latest[k] for k in SHOWN if k in latest}),
                    skip=lambda n: advance(0, earlier=n),
                    processes=processes,
                    spread=spread,
                )
    if not processes.is_first:
        return
    for job in jobs:
        write_training_page(job.out)
    if len(jobs) == 1:
        emit({"out": str(out), **results[0]}, as_json=as_json, title=f"SAE at {jobs[0].config.hook_point}")
        return
    rows = [(job.out.name, *(result[name] for name in TABLE)) for job, result in zip(jobs, results, strict=True)]
    settings = [{name: getattr(job.config, name) for name in ("hook_point", "k", "seed")} for job in jobs]
    saes = [{"out": str(j.out), **s, **result} for j, s, result in zip(jobs, settings, results, strict=True)]
    emit({"out": str(out), "saes": saes}, as_json=as_json, title=f"SAEs in {out}", rows=rows, columns=("SAE", *TABLE))


def _quiet(*_: object, **__: object) -> None:
    """Show nothing: the first process does."""
