"""The options of `wb unlearn`: fields that all methods share, defaults of redirection, `--param`.

Settings of redirection are options of their own where a measurement shows an effect; `--param`
reaches every setting of every method. Imports no torch.
"""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from cli import options
from unlearn.config import UnlearnConfig, configure
from unlearn.settings.redirection import RedirectSettings
from unlearn.settings.registry import METHOD_SETTINGS, read_params, setting_names

# What the command is given that is no field of a config.
NOT_SETTINGS = ("latents", "labels", "templates", "text", "original", "out", "overwrite", "resume", "wandb")
NOT_OF_PLAN = ("out", "overwrite", "resume", "wandb")  # where results go; a plan has none
# Each changed what was measured: block weight, guard, tokens with activations put back, blocks, positions, the start.
MEASURED = ("block_weight", "erase_at", "guard_weight", "blocks", "positions", "init")


class SettingWords(click.ParamType):
    """`NAME=VALUE`; read by `unlearn.settings.registry.read_params`, which knows the method.

    Attributes:
        names: Every setting that can be given so, for messages that name one.
    """

    name = "setting"
    names = frozenset(name for kind in METHOD_SETTINGS.values() for name in setting_names(kind))


def param_option(command: Any) -> Any:
    """Add `--param NAME=VALUE`: any setting of the method."""
    known = {
        method: [n for n in setting_names(kind) if kind is not RedirectSettings or n not in MEASURED]
        for method, kind in METHOD_SETTINGS.items()
    }
    listed = "; ".join(f"{method}: {', '.join(names)}" for method, names in known.items() if names)
    text = (
        "A setting of the method that is no option of its own; docs/reference/unlearning_methods.md says what they do. "
        f"Repeatable. {listed}."
    )
    return click.option("--param", type=SettingWords(), multiple=True, metavar="NAME=VALUE", help=text)(command)


original_option = click.option(
    "--original",
    type=options.ModelSpec(),
    metavar="MODEL",
    help="The model before the first removal, as which everything else is kept; by default as unlearning.json says.",
)
plan_option = click.option(
    "--plan",
    is_flag=True,
    help="Print steps, seconds and peak memory, estimated from two batches that are tried out; do nothing.",
)
unlearn_options = options.option_list(
    original_option,
    options.config_options(UnlearnConfig, without=("settings", "seed")),
    options.config_options(RedirectSettings, only=MEASURED),
    param_option,
    plan_option,
)


def explicit(given: dict[str, Any]) -> dict[str, Any]:
    """Leave out options that were not given: a method may have other defaults than the ones shown."""
    source = click.get_current_context().get_parameter_source
    return {k: v for k, v in given.items() if k == "method" or source(k) is not ParameterSource.DEFAULT}


def given_config(given: dict[str, Any], param: tuple[str, ...]) -> UnlearnConfig:
    """Build the config from the options that were given and from `--param`."""
    return configure(**explicit(given), **read_params(given["method"], param))


def of_plan(files: dict[str, Any]) -> dict[str, Any]:
    """Leave out where results go."""
    return {name: value for name, value in files.items() if name not in NOT_OF_PLAN}
