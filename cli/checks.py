"""Options of the causal checks of `wb find-entity-latents`, and the configs that they make. Imports no torch."""

from __future__ import annotations

from typing import Any

import click

from cli import options
from features.config import TOKEN_CHOICES, GateConfig, SteeringConfig
from sae_train.config import default_of


def _sized(kind: type, check: str, field: str, name: str, **attrs: Any) -> Any:
    """Return an option for a field of one check's config; the default is the field's."""
    return click.option(
        f"--{check}-{name}", f"{check}_{field}", default=default_of(kind, field), show_default=True, **attrs
    )


OPTIONS = [
    click.option(
        "--gate/--no-gate",
        "gate",
        default=True,
        show_default=True,
        help="Patch the names of known entities: does the knowledge pass there, do the latents hold it?",
    ),
    _sized(GateConfig, "gate", "n_entities", "entities", type=int, help="Known entities asked about, at most."),
    _sized(GateConfig, "gate", "n_questions", "questions", type=int, help="Questions about each, at most."),
    _sized(GateConfig, "gate", "tokens", "tokens", type=click.Choice(TOKEN_CHOICES), help="Name tokens patched."),
    _sized(GateConfig, "gate", "n_blocks", "blocks", type=int, help="More blocks, whole activation patched only."),
    click.option("--steering", is_flag=True, help="Push the selected latents at the names and ask again."),
    _sized(SteeringConfig, "steering", "n_entities", "entities", type=int, help="Entities asked about, at most."),
]

# The command receives them together as keywords that begin with `gate` or `steering`.
check_options = options.option_list(*OPTIONS)


def check_configs(given: dict[str, Any], seed: int) -> dict[str, GateConfig | SteeringConfig | None]:
    """Return `gate` and `steering` as `add_checks` takes them."""
    found: dict[str, GateConfig | SteeringConfig | None] = {}
    for check, kind in (("gate", GateConfig), ("steering", SteeringConfig)):
        fields = {k.removeprefix(f"{check}_"): v for k, v in given.items() if k.startswith(f"{check}_")}
        found[check] = kind(**fields, seed=seed) if given[check] else None
    return found
