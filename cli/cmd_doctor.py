"""`wb doctor`: versions, devices, speeds, and what will be slow here."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options


@click.command(epilog=options.example("wb doctor --folder ."))
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where files are to lie: its disk is looked at. By default the current folder.",
)
@options.common_options
def command(folder: Path, as_json: bool, config_path: Path | None) -> None:
    """Look at this machine: versions, devices, number formats, memory, and what will be slow on it, and why.

    A product of two matrices is timed in each number format, and a file of 64 MiB read. Nothing is left behind.
    """
    from dataclasses import asdict

    from cli.output.doctor_tables import machine_rows
    from cli.output.render import emit
    from sae_train.machine.doctor import examine

    found = examine(folder)
    if as_json:
        emit(asdict(found), as_json=True, title="")
        return
    emit({}, as_json=False, title="this machine", rows=machine_rows(found))
    for line in found.slow:
        click.echo(f"- {line}")
