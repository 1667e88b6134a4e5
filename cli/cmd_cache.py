"""`wb cache`: what was converted once and is kept on this machine: show, clear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import options

if TYPE_CHECKING:
    from sae_train.storage.converted import Converted


@click.group(epilog=options.example("wb cache show", "wb cache clear"))
def command() -> None:
    """Show or remove what was converted once: language models from .gguf files.

    They lie in the user's cache folder, or where the environment variable WB_CACHE says, by the hash of the file.
    """


@command.command("show", epilog=options.example("wb cache show"))
@options.common_options
def show(as_json: bool, config_path: Path | None) -> None:
    """Show what is kept, and how large it is."""
    from sae_train.storage.converted import cache_folder, entries

    _print(entries(), f"kept in {cache_folder()}", as_json=as_json)


@command.command("clear", epilog=options.example("wb cache clear"))
@options.common_options
def clear(as_json: bool, config_path: Path | None) -> None:
    """Remove all of it; what is asked for again is converted again."""
    from sae_train.storage import converted

    _print(converted.clear(), f"removed from {converted.cache_folder()}", as_json=as_json)


def _print(found: list[Converted], title: str, *, as_json: bool) -> None:
    """Print what is, or was, in the cache."""
    from dataclasses import asdict

    from cli.output.render import emit
    from sae_train.storage.converted import cache_folder

    emit(
        {"folder": str(cache_folder()), "bytes": sum(e.n_bytes for e in found), "models": [asdict(e) for e in found]},
        as_json=as_json,
        title=title,
        columns=("MiB", "from", "folder"),
        rows=[(f"{e.n_bytes / 2**20:,.1f}", e.source, e.folder.name) for e in found],
    )
