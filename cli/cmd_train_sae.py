"""`wb train-sae`: activation store -> SAE folder, without any language model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import ARCH_NAMES, B_DEC_INITS, SEARCH_DTYPES, SaeTrainConfig

SHOWN = ("step", "fvu", "mse", "l0", "frac_dead")  # beside the progress, where the loss has them
OPTIONS = [
    options.field_option(SaeTrainConfig, "arch", type=click.Choice(ARCH_NAMES), help="Architecture."),
    options.field_option(SaeTrainConfig, "k", type=int, help="Latents per token: exactly (topk), on average (others)."),
    options.field_option(SaeTrainConfig, "expansion", type=int, help="Latents per input dimension."),
    options.field_option(SaeTrainConfig, "d_sae", type=int, help="Number of latents, instead of --expansion."),
    options.field_option(
        SaeTrainConfig, "tokens", type=int, help="Rows to train on, repeats included; one pass by default."
    ),
    options.field_option(SaeTrainConfig, "batch_size", type=int, help="Rows a step."),
    options.field_option(SaeTrainConfig, "lr", type=float, help="Step size; by default 2e-4 / sqrt(d_sae / 16384)."),
    options.field_option(SaeTrainConfig, "lr_warmup_steps", type=int, help="Steps of warm-up."),
    options.field_option(SaeTrainConfig, "lr_decay_share", type=float, help="Share of the run with falling step size."),
    options.field_option(SaeTrainConfig, "l1_coefficient", type=float, help="Weight of the sparsity term (relu)."),
    options.field_option(
        SaeTrainConfig, "l1_warmup_share", type=float, help="Share of the run in which it grows (relu, jumprelu)."
    ),
    options.field_option(SaeTrainConfig, "l0_coefficient", type=float, help="Weight of the L0 target (jumprelu)."),
    options.field_option(
        SaeTrainConfig, "jumprelu_bandwidth", type=float, help="Window in which thresholds learn (jumprelu)."
    ),
    options.field_option(
        SaeTrainConfig,
        "matryoshka_prefixes",
        name="--matryoshka-prefix",
        type=float,
        multiple=True,
        help="Share of the latents that reconstructs alone (matryoshka). Repeatable.",
    ),
    options.field_option(
        SaeTrainConfig, "auxk_alpha", type=float, help="Weight of the dead-latent loss (topk, batch-topk, matryoshka)."
    ),
    options.field_option(
        SaeTrainConfig,
        "search_dtype",
        type=click.Choice(SEARCH_DTYPES),
        help="Product that finds the k largest (topk).",
    ),
    options.field_option(SaeTrainConfig, "b_dec_init", type=click.Choice(B_DEC_INITS), help="Where b_dec starts."),
    options.field_option(
        SaeTrainConfig,
        "dead_after_tokens",
        type=int,
        help="Dead after so many; a tenth of the run by default.",
    ),
    options.field_option(SaeTrainConfig, "holdout_share", type=float, help="Share of documents held out."),
    options.field_option(SaeTrainConfig, "eval_every", type=int, help="Steps between evaluations; 0: at the end."),
    options.field_option(SaeTrainConfig, "save_every", type=int, help="Steps between checkpoints."),
    options.field_option(SaeTrainConfig, "buffer_mb", type=int, help="Memory of the shuffle window."),
]


def train_options(command: Any) -> Any:
    """Add one option per field of the config."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(
    epilog=options.example(
        "wb train-sae --activations acts.h5 --hook-point layers.2 --arch topk --k 8 --expansion 2 \\",
        "  --tokens 400000 --batch-size 1024 --out sae",
    )
)
@options.activations_option
@options.hook_point_option()
@options.out_option("The SAE folder; SAELens reads it as it is.")
@train_options
@options.wandb_option
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.resume_option
@options.common_options
def command(
    activations: Path,
    out: Path,
    wandb: str | None,
    device: str,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Train a sparse autoencoder on one hook point of an activation store.

    Whole documents are held out; FVU, L0 and dead latents are measured on them. --resume continues from the
    last checkpoint to the same weights. `training.html` in the folder shows the curves.
    """
    from cli.render import emit, progress
    from features.training_page import write_training_page
    from sae_train.activations.store import ActivationStore
    from sae_train.runs import claim_output, clear_output
    from sae_train.trainer import train_sae

    claim_output(out, overwrite=overwrite, resume=resume)
    config = SaeTrainConfig(**given)
    with ActivationStore(activations) as store:
        config = SaeTrainConfig(**{**given, "hook_point": store.hook_point(config.hook_point)})
        if not resume:
            clear_output(out, overwrite=overwrite)
        latest: dict[str, float] = {}
        with progress("training", config.tokens or store.n_rows, unit="tokens") as advance:
            result = train_sae(
                store, config, out, device=device, resume=resume, wandb=wandb, log=latest.update,
                advance=lambda n, _terms: advance(n, **{k: latest[k] for k in SHOWN if k in latest}),
            )  # fmt: skip
    write_training_page(out)
    emit({"out": str(out), **result}, as_json=as_json, title=f"SAE at {config.hook_point}")
