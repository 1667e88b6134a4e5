"""`wb compare-saes`: which latents of one SAE another one has too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options

if TYPE_CHECKING:
    from sae_train.saes.comparison import SaeComparison
    from sae_train.saes.interop import LoadedSae


@click.command(epilog=options.example("wb compare-saes sae imported --activations acts.h5"))
@click.argument("a", type=options.ExistingFolder("an SAE"))
@click.argument("b", type=options.ExistingFolder("an SAE"))
@click.option("--threshold", type=float, default=0.7, show_default=True, help="Cosine from which a partner is a twin.")
@options.file_option(
    "--activations", "activations (HDF5 store), to weight latents by how often they fire", required=False
)
@click.option("--max-rows", type=int, default=100_000, show_default=True, help="Rows to count firings on.")
@click.option("--latent", "latents", type=int, multiple=True, metavar="N", help="Show this latent of A. Repeatable.")
@click.option(
    "--max-hungarian",
    type=click.IntRange(min=0),
    default=16_384,
    show_default=True,
    help="Latents up to which the best one-to-one matching is found; above, mutual nearest neighbours.",
)
@options.seed_option()
@options.common_options
def command(
    a: Path,
    b: Path,
    threshold: float,
    activations: Path | None,
    max_rows: int,
    latents: tuple[int, ...],
    max_hungarian: int,
    seed: int,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Match the latents of two SAEs of one place, such as two seeds, by the cosine of their decoder rows.

    A latent has a twin if its partner's cosine reaches the threshold; one that exists in one SAE only is no evidence
    of a feature. Beside every figure stands what as many random directions give. With --activations, shares
    of twins are also weighted by how often a latent fires.
    """
    from cli.render import emit, note
    from sae_train.fields import require
    from sae_train.saes.comparison import compare_saes
    from sae_train.saes.interop import load_sae

    require(max_rows >= 1, "max_rows", max_rows, ">= 1")
    first, second = load_sae(a), load_sae(b)
    for latent in latents:
        require(0 <= latent < first.sae.d_sae, "latents", latent, f"0 to {first.sae.d_sae - 1}")
    if first.hook_point != second.hook_point:
        note(f"they read different places, {first.hook_point} and {second.hook_point}: cosines mean little")
    found = compare_saes(first.sae, second.sae, threshold=threshold, seed=seed, max_hungarian=max_hungarian)
    values: dict[str, Any] = {"a": str(a), "b": str(b), **found.summary()}
    if activations is not None:
        values |= _weighted(found, first, second, activations, max_rows)
    if latents:
        values["latents"] = [found.partner(latent) for latent in latents]
    emit(values, as_json=as_json, title=f"{a} and {b}")
    if latents and not as_json:
        columns = list(values["latents"][0])
        rows = [list(row.values()) for row in values["latents"]]
        emit(values, as_json=False, title=f"Latents of {a}", rows=rows, columns=columns)


def _weighted(
    found: SaeComparison, first: LoadedSae, second: LoadedSae, activations: Path, max_rows: int
) -> dict[str, Any]:
    """Return the shares of twins weighted by firing rate, and among latents that fire at all."""
    import numpy as np

    from sae_train.activations.store import ActivationStore
    from sae_train.evaluate import firing_rate
    from sae_train.saes.comparison import weighted_share

    values: dict[str, Any] = {}
    with ActivationStore(activations) as store:
        for name, loaded, twins in (("a", first, found.has_twin_a()), ("b", second, found.has_twin_b())):
            point = store.hook_point(loaded.hook_point)
            every = np.ones(store.n_rows, dtype=bool)
            rate = firing_rate(loaded.sae, store, point, every, max_rows=max_rows).numpy()
            alive = rate > 0
            values[f"frac_twins_{name}_alive"] = float(twins[alive].mean()) if alive.any() else float("nan")
            values[f"frac_twins_{name}_by_rate"] = weighted_share(twins, rate)
    return values
