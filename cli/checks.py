"""Options of the causal checks of `wb find-entity-latents`, and the configs built from them. Imports no torch."""

from __future__ import annotations

from typing import Any

import click

from cli import options
from features.config import GateConfig, SteeringConfig

position_option = click.option(
    "--position",
    type=click.Choice(["last", "first", "all", "end"]),
    help="Token that is read: last (the default), first or all of the name, or the end of the prompt.",
)
# The command receives them together as keywords that begin with `gate` or `steering`.
check_options = options.option_list(
    click.option(
        "--gate/--no-gate",
        "gate",
        default=True,
        show_default=True,
        help="Patch the names of known entities: does the knowledge pass there, do the latents hold it?",
    ),
    options.config_options(
        GateConfig,
        only=("n_entities", "n_questions", "tokens", "n_blocks"),
        names={"n_entities": "--gate-entities", "n_questions": "--gate-questions", "n_blocks": "--gate-blocks"},
        prefix="gate_",
    ),
    click.option("--steering", is_flag=True, help="Push the selected latents at the names and ask again."),
    options.config_options(
        SteeringConfig, only=("n_entities",), names={"n_entities": "--steering-entities"}, prefix="steering_"
    ),
)


def check_configs(given: dict[str, Any], seed: int) -> dict[str, GateConfig | SteeringConfig | None]:
    """Return `gate` and `steering` as `add_checks` takes them."""
    found: dict[str, GateConfig | SteeringConfig | None] = {}
    for check, kind in (("gate", GateConfig), ("steering", SteeringConfig)):
        fields = {k.removeprefix(f"{check}_"): v for k, v in given.items() if k.startswith(f"{check}_")}
        found[check] = kind(**fields, seed=seed) if given[check] else None
    return found
