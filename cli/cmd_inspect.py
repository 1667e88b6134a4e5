"""`wb inspect`: show, compare or verify the workbench's HDF5 files; statistics of activation stores."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options


@click.command(epilog=options.example("wb inspect acts.h5 --verify --html acts.html"))
@click.argument("file", type=options.ExistingFile("HDF5 data"))
@click.option("--verify", is_flag=True, help="Read every chunk, check its checksum, and check the rules of the format.")
@click.option(
    "--against",
    type=options.ExistingFile("activations (HDF5 store)"),
    help="Another store, such as one after unlearning: what moved, and how far.",
)
@click.option("--html", type=click.Path(path_type=Path), metavar="PATH", help="Also write a page with pictures.")
@options.model_option(required=False, help="Model whose tokenizer gives the top tokens their text.")
@options.overwrite_option
@options.common_options
def command(
    file: Path,
    verify: bool,
    against: Path | None,
    html: Path | None,
    model: str | None,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Show what is in FILE: structure, provenance and, for an activation store, what its rows look like.

    Per hook point: percentiles of the norm, moments of every dimension, massive dimensions, effective rank,
    duplicates, tokens with the largest norm, drift by position, NaN and Inf. Works on latents.h5 as well. With
    --verify, damage or a broken rule ends in exit code 2.
    """
    from cli.output.inspect_tables import inspect_tables
    from cli.output.render import emit, note
    from features import inspect_file

    found = inspect_file(file, verify=verify, against=against, tokenizer=model, html=html, overwrite=overwrite)
    if html is not None:
        note(f"page: {html}")
    if as_json:
        emit(found.summary() | ({} if html is None else {"html": str(html)}), as_json=True, title="")
    else:
        for table in inspect_tables(found):
            emit({}, as_json=False, title=table.title, columns=table.columns, rows=table.rows)
    if found.has_problems:
        for text in found.problems:
            note(text)
        raise click.exceptions.Exit(2)
