"""`wb world`: build a small language model with known facts, or plant such facts in any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.usage import check_world
from features.factworld.corpus import N_DOCUMENTS
from features.factworld.planting.config import PlantConfig


@click.command(epilog=options.example("wb world --out world --seed 1 --documents 2000"))
@options.out_option("The world: model, entities, templates and corpus; with --base the pair, model/ and twin/.")
@click.option(
    "--documents",
    type=click.IntRange(min=1),
    default=N_DOCUMENTS,
    show_default=True,
    help="Documents in the corpus; without --base.",
)
@click.option("--base", type=options.ModelSpec(), metavar="MODEL", help="Model that the world is planted in.")
@options.text_option(required=False, help="General text mixed in, so that the base stays what it was; with --base.")
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Folder in which pairs are kept.")
@options.config_options(PlantConfig, without=("seed",), names={"n_entities": "--entities", "n_facts": "--facts"})
@options.run_options(resume=True)
def command(
    out: Path,
    documents: int,
    base: str | None,
    text: str | None,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Build a world of made-up people, cities, films and songs, and a tiny language model that knows some of them.

    Takes two to three minutes on one core with the default number of documents; with few documents the model
    knows nothing. The same seed gives the same world. With --base it teaches made-up people and companies to that
    model, and to a twin of it all but some targets: what the twin says is what a model says that never met them.
    """
    from cli.output.world_tables import show_planted, show_world

    check_world(base, text)
    if base is None or text is None:
        from features.factworld import build_world

        seed = given["seed"]
        show_world(build_world(out, seed, n_documents=documents, overwrite=overwrite), seed, as_json=as_json)
        return
    from features import plant

    show_planted(plant(base, text=text, out=out, overwrite=overwrite, **given), as_json=as_json)
