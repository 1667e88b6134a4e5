"""What `wb compare-saes` prints: how the latents of two SAEs match, or whose the latents of a crosscoder are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.output.render import emit, note
from sae_train import Sae, compare_saes
from sae_train.config import CompareConfig
from sae_train.errors import ConfigError
from sae_train.fields import require
from sae_train.quality.evaluation import compare_sides


def show_saes(
    a: Path,
    b: Path,
    activations: Path | None,
    other: Path | None,
    latents: Sequence[int],
    config: CompareConfig,
    *,
    as_json: bool,
) -> None:
    """Match two SAEs and print the figures, and what is known of some latents of the first.

    Raises:
        ConfigError: There is no such latent, or a store that only a crosscoder reads.
    """
    if other is not None:
        raise ConfigError("two SAEs read one store", got=other, field="other", expected="a crosscoder alone")
    first, second = Sae.load(a, device="cpu"), Sae.load(b, device="cpu")
    _check_latents(latents, first)
    if first.hook_point != second.hook_point:
        note(f"they read different places, {first.hook_point} and {second.hook_point}: cosines mean little")
    found = compare_saes(first, second, store=activations, config=config)
    values: dict[str, Any] = {"a": str(a), "b": str(b), **found.summary()}
    _show(values, [found.partner(latent) for latent in latents], f"{a} and {b}", a, as_json=as_json)


def show_sides(
    a: Path, activations: Path | None, other: Path | None, latents: Sequence[int], *, max_rows: int, as_json: bool
) -> None:
    """Print which latents of a crosscoder are whose.

    Raises:
        ConfigError: It is none, or there is no such latent.
    """
    sae = Sae.load(a, device="cpu")
    if len(sae.sides) != 2:
        raise ConfigError(
            "one SAE alone is compared with nothing", got=a, expected="a crosscoder, or a second SAE, 'B'"
        )
    _check_latents(latents, sae)
    found = compare_sides(sae, before=activations, after=other, max_rows=max_rows)
    _show({"a": str(a), **found.summary()}, [found.latent(n) for n in latents], f"Sides of {a}", a, as_json=as_json)


def _check_latents(latents: Sequence[int], sae: Sae) -> None:
    """Refuse a latent that an SAE does not have."""
    for latent in latents:
        require(0 <= latent < sae.d_sae, "latents", latent, f"0 to {sae.d_sae - 1}")


def _show(
    values: Mapping[str, Any], latents: Sequence[Mapping[str, Any]], title: str, a: Path, *, as_json: bool
) -> None:
    """Print figures, and a table of single latents."""
    values = {**values, **({"latents": list(latents)} if latents else {})}
    shown = [(key, value) for key, value in values.items() if key != "latents"]
    emit(values, as_json=as_json, title=title, rows=None if as_json else shown)
    if latents and not as_json:
        rows = [list(row.values()) for row in latents]
        emit(values, as_json=False, title=f"Latents of {a}", rows=rows, columns=list(latents[0]))
