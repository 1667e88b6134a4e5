"""`wb compare-saes`: find the latents that two SAEs share, or the two models of a crosscoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import CompareConfig


@click.command(epilog=options.example("wb compare-saes sae imported --activations acts.h5"))
@click.argument("a", type=options.ExistingFolder("an SAE"))
@click.argument("b", type=options.ExistingFolder("an SAE"), required=False)
@options.config_options(CompareConfig, without=("seed",))
@options.file_option(
    "--activations", "activations (HDF5 store), to weight latents by how often they fire", required=False
)
@options.other_option
@click.option("--latent", "latents", type=int, multiple=True, metavar="N", help="Show this latent of A. Repeatable.")
@options.seed_option()
@options.common_options
def command(
    a: Path,
    b: Path | None,
    activations: Path | None,
    other: Path | None,
    latents: tuple[int, ...],
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Match the latents of two SAEs of one place, such as two seeds, by the cosine of their decoder rows.

    A latent has a twin if its partner's cosine reaches the threshold; one that exists in one SAE only is no evidence
    of a feature. Beside every figure stands what as many random directions give. With --activations, shares
    of twins are also weighted by how often a latent fires.

    A crosscoder stands alone: which of its latents both models have, which only one, by the lengths of their
    decoder rows, and which are turned: in both, with another direction. With --activations and --other those that
    never fire are left out.
    """
    from cli.output.compare_tables import show_saes, show_sides

    if b is None:
        show_sides(a, activations, other, latents, max_rows=given["max_rows"], as_json=as_json)
    else:
        show_saes(a, b, activations, other, latents, CompareConfig(**given), as_json=as_json)
