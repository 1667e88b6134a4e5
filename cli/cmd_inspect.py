"""`wb inspect`: what any of our HDF5 files holds; statistics of activation stores; verification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options


@click.command(epilog=options.example("wb inspect acts.h5 --verify"))
@click.argument("file", type=options.ExistingFile("HDF5 data"))
@click.option("--verify", is_flag=True, help="Read every chunk and check its checksum.")
@options.common_options
def command(file: Path, verify: bool, as_json: bool, config_path: Path | None) -> None:
    """Show what is in FILE: structure, provenance, norms and their percentiles, NaN and Inf.

    Works on activation stores and on latents.h5. With --verify a damaged chunk ends in exit code 2.
    """
    from cli.render import emit, note
    from features.inspection import inspect_file

    found = inspect_file(file, verify=verify)
    if as_json:
        emit(found, as_json=True, title="")
    else:
        _print(found)
    if found["damaged"]:
        note(f"damaged: {', '.join(found['damaged'])}")
        raise click.exceptions.Exit(2)


def _print(found: dict[str, Any]) -> None:
    """Print the tables of a file."""
    from cli.render import emit

    emit(
        found,
        as_json=False,
        title=f"{found['file']}: {found['schema']} version {found['schema_version']}",
        rows=found["attrs"].items(),
    )
    emit(
        found,
        as_json=False,
        title="Datasets",
        columns=("name", "shape", "type", "unit", "axes", "bytes"),
        rows=[(d["name"], d["shape"], d["dtype"], d["unit"], d["axes"], d["stored_bytes"]) for d in found["datasets"]],
    )
    if found["statistics"]:
        percentiles = list(next(iter(found["statistics"].values()))["norm_percentiles"])
        emit(
            found,
            as_json=False,
            title="Row norms",
            columns=(
                "hook point",
                "d_in",
                "mean",
                *percentiles,
                "NaN/Inf rows",
                "variance",
                "largest dimension (share of squares)",
            ),
            rows=[
                (
                    name,
                    s["d_in"],
                    s["mean_norm"],
                    *s["norm_percentiles"].values(),
                    s["n_nonfinite_rows"],
                    s["variance"],
                    f"{s['massive_dims'][0][0]} ({s['massive_dims'][0][1]:.2f})",
                )
                for name, s in found["statistics"].items()
            ],
        )
    if found["verified"] is not None:
        emit(
            {"chunks verified": found["verified"], "damaged": len(found["damaged"])},
            as_json=False,
            title="Verification",
        )
