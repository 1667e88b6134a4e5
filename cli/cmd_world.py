"""`wb world`: build a fact world, a small language model with known facts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from cli import options
from features.factworld.corpus import N_DOCUMENTS


@click.command(epilog=options.example("wb world --out world --seed 1 --documents 2000"))
@options.out_option("The world: a Hugging Face folder with entities, templates and corpus in it.")
@click.option(
    "--documents",
    type=click.IntRange(min=1),
    default=N_DOCUMENTS,
    show_default=True,
    help="Documents in the corpus.",
)
@options.seed_option()
@options.overwrite_option
@options.common_options
def command(out: Path, documents: int, seed: int, overwrite: bool, as_json: bool, config_path: Path | None) -> None:
    """Build a world of made-up people, cities, films and songs, and a tiny language model that knows some of them.

    Takes two to three minutes on one core with the default number of documents; with few documents the model
    knows nothing. The same seed gives the same world.
    """
    from cli.output.render import emit
    from features.factworld import build_world

    report = build_world(out, seed, n_documents=documents, overwrite=overwrite)
    facts = asdict(report.facts)
    emit({"out": str(out), **facts, "seconds": report.seconds}, as_json=as_json, title=f"World {seed}")
