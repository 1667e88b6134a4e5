"""The options of `wb unlearn`: one per shared field, one per setting of redirect, `--param` for the other methods."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from cli import options
from unlearn.config import TRAIN_CHOICES, UnlearnConfig
from unlearn.settings import (
    BLOCK_CHOICES,
    ERASE_CHOICES,
    INIT_CHOICES,
    LATENT_CHOICES,
    METHOD_SETTINGS,
    POSITION_CHOICES,
    RedirectSettings,
    setting_names,
)

OPTIONS = [
    options.field_option(UnlearnConfig, "method", type=str, help=f"Method: {', '.join(METHOD_SETTINGS)}."),
    options.field_option(UnlearnConfig, "steps", type=int, help="Optimizer steps."),
    options.field_option(UnlearnConfig, "lr", type=float, help="Step size; by default the method's own * 96 / width."),
    options.field_option(UnlearnConfig, "batch_size", type=int, help="Target prompts in a step."),
    options.field_option(RedirectSettings, "latent_weight", type=float, help="Weight of the selected latents."),
    options.field_option(
        RedirectSettings, "block_weight", type=float, help="Weight of the distance to the unknown entity."
    ),
    options.field_option(RedirectSettings, "output_weight", type=float, help="Weight of the next-token distribution."),
    options.field_option(RedirectSettings, "erase_behind", help="Also erase what lies behind the name's activation."),
    options.field_option(RedirectSettings, "erase_weight", type=float, help="Weight of that."),
    options.field_option(RedirectSettings, "erase_at", type=click.Choice(ERASE_CHOICES), help="Where it is put back."),
    options.field_option(
        RedirectSettings, "erase_spread", type=float, help="How far beside the original activation is looked, too."
    ),
    options.field_option(RedirectSettings, "guard_weight", type=float, help="Weight of the guard against relearning."),
    options.field_option(RedirectSettings, "guard_rate", type=float, help="Step size of the attacker it imagines."),
    options.field_option(UnlearnConfig, "retain_weight", type=float, help="Weight of what has to stay."),
    options.field_option(
        RedirectSettings, "blocks", type=click.Choice(BLOCK_CHOICES), help="Blocks that are redirected."
    ),
    options.field_option(RedirectSettings, "positions", type=click.Choice(POSITION_CHOICES), help="Tokens that are."),
    options.field_option(
        RedirectSettings, "which_latents", type=click.Choice(LATENT_CHOICES), help="Latents of the latent term."
    ),
    options.field_option(RedirectSettings, "answers", help="Redirect questions with an answer behind them, too."),
    options.field_option(RedirectSettings, "init", type=click.Choice(INIT_CHOICES), help="What the steps start from."),
    options.field_option(RedirectSettings, "sae_error", help="Aim at the activation itself, or at its reconstruction."),
    options.field_option(UnlearnConfig, "train", type=click.Choice(TRAIN_CHOICES), help="Parameters that may change."),
    options.field_option(UnlearnConfig, "lora_rank", type=int, help="Rank of the adapter (--train lora)."),
    options.field_option(UnlearnConfig, "lora_alpha", type=int, help="Scale of the adapter: alpha / rank."),
    options.field_option(UnlearnConfig, "merge", help="Write the adapter merged into the whole model."),
    options.field_option(UnlearnConfig, "accumulate", type=int, help="Batches that make one step, in every process."),
    options.field_option(UnlearnConfig, "autocast", help="Compute in bfloat16 where that is safe."),
    options.field_option(UnlearnConfig, "stop_early", help="Stop when the targets pass on held-apart wordings."),
    options.field_option(UnlearnConfig, "check_every", type=int, help="Steps between two looks at them."),
    options.field_option(UnlearnConfig, "hook_point", type=str, help="SAE to use; by default the one that tells most."),
    options.field_option(UnlearnConfig, "retain_share", type=float, help="Share of known entities trained on."),
    options.field_option(UnlearnConfig, "warmup_steps", type=int, help="Steps of warm-up."),
    options.field_option(
        UnlearnConfig, "max_loss_increase", type=float, help="Rise of retained loss that is a collapse."
    ),
    options.field_option(UnlearnConfig, "save_every", type=int, help="Steps between checkpoints."),
]

unlearn_options = options.option_list(*OPTIONS)


def param_option(command: Any) -> Any:
    """Add `--param NAME=VALUE`: the settings of the methods that have no options of their own."""
    known = "; ".join(
        f"{method}: {', '.join(setting_names(kind))}"
        for method, kind in METHOD_SETTINGS.items()
        if kind is not RedirectSettings and setting_names(kind)
    )
    text = "A setting of the method. Repeatable." + (f" {known}." if known else "")
    return click.option("--param", multiple=True, metavar="NAME=VALUE", help=text)(command)


def explicit(given: dict[str, Any]) -> dict[str, Any]:
    """Leave out what nobody gave: a method may have other defaults than the ones shown."""
    source = click.get_current_context().get_parameter_source
    return {k: v for k, v in given.items() if k == "method" or source(k) is not ParameterSource.DEFAULT}
