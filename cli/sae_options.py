"""The options of `wb train-sae` that are fields of its config. Importing this module imports no torch."""

from __future__ import annotations

import click

from cli import options
from sae_train.config import ARCH_NAMES, B_DEC_INITS, SEARCH_DTYPES, SaeTrainConfig

OPTIONS = [
    options.field_option(SaeTrainConfig, "arch", type=click.Choice(ARCH_NAMES), help="Architecture."),
    options.field_option(
        SaeTrainConfig,
        "k",
        type=int,
        multiple=True,
        help="Latents per token: exactly (topk), on average (others). Repeatable.",
    ),
    options.field_option(
        SaeTrainConfig,
        "expansion",
        type=int,
        multiple=True,
        help="Latents per input dimension. Repeatable.",
    ),
    options.field_option(SaeTrainConfig, "d_sae", type=int, help="Number of latents, instead of --expansion."),
    options.field_option(
        SaeTrainConfig, "tokens", type=int, help="Rows to train on, repeats included; one pass by default."
    ),
    options.field_option(SaeTrainConfig, "batch_size", type=int, help="Rows a step, of all processes."),
    options.field_option(SaeTrainConfig, "accumulate", type=int, help="Micro batches a step is taken in, for memory."),
    options.field_option(
        SaeTrainConfig,
        "autocast",
        help="Dense products in bfloat16, weights in float32; not faster on every processor.",
    ),
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
    options.field_option(
        SaeTrainConfig,
        "data_seed",
        type=click.IntRange(min=0),
        help="Seed of held-out documents and order; the first --seed by default.",
    ),
]

train_options = options.option_list(*OPTIONS)
