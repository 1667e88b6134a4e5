"""`wb compare-saes`: find the latents that two SAEs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import CompareConfig
from sae_train.fields import require


@click.command(epilog=options.example("wb compare-saes sae imported --activations acts.h5"))
@click.argument("a", type=options.ExistingFolder("an SAE"))
@click.argument("b", type=options.ExistingFolder("an SAE"))
@options.config_options(CompareConfig, without=("seed",))
@options.file_option(
    "--activations", "activations (HDF5 store), to weight latents by how often they fire", required=False
)
@click.option("--latent", "latents", type=int, multiple=True, metavar="N", help="Show this latent of A. Repeatable.")
@options.seed_option()
@options.common_options
def command(
    a: Path,
    b: Path,
    activations: Path | None,
    latents: tuple[int, ...],
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Match the latents of two SAEs of one place, such as two seeds, by the cosine of their decoder rows.

    A latent has a twin if its partner's cosine reaches the threshold; one that exists in one SAE only is no evidence
    of a feature. Beside every figure stands what as many random directions give. With --activations, shares
    of twins are also weighted by how often a latent fires.
    """
    from cli.output.render import emit, note
    from sae_train import Sae, compare_saes

    config = CompareConfig(**given)
    first, second = Sae.load(a, device="cpu"), Sae.load(b, device="cpu")
    for latent in latents:
        require(0 <= latent < first.d_sae, "latents", latent, f"0 to {first.d_sae - 1}")
    if first.hook_point != second.hook_point:
        note(f"they read different places, {first.hook_point} and {second.hook_point}: cosines mean little")
    found = compare_saes(first, second, store=activations, config=config)
    values: dict[str, Any] = {"a": str(a), "b": str(b), **found.summary()}
    if latents:
        values["latents"] = [found.partner(latent) for latent in latents]
    emit(values, as_json=as_json, title=f"{a} and {b}")
    if latents and not as_json:
        columns = list(values["latents"][0])
        rows = [list(row.values()) for row in values["latents"]]
        emit(values, as_json=False, title=f"Latents of {a}", rows=rows, columns=columns)
