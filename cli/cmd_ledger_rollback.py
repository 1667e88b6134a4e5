"""`wb ledger rollback`: undo the newest removal."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options


@click.command("rollback", epilog=options.example("wb ledger rollback --ledger removals.jsonl --entry 0"))
@options.ledger_option
@click.option("--entry", type=click.IntRange(min=0), required=True, metavar="N", help="The newest active removal.")
@options.device_option
@options.common_options
def rollback(ledger: Path, entry: int, device: str, as_json: bool, config_path: Path | None) -> None:
    """Take back the newest removal.

    Its adapter is off and its base is the model to use again; nothing is deleted. The base is loaded and its weights
    are compared with the hash in the entry.
    """
    from cli.output.render import emit
    from unlearn import Ledger

    chain = Ledger(ledger)
    found = chain.roll_back(entry, device=device)
    base = chain.base_of(chain.entries()[entry])
    values = {"ledger": str(ledger), "entry": found.index, "rolled_back": entry, "model": base, "hash": found.hash}
    emit(values, as_json=as_json, title=f"Rolled back entry {entry}; the model to use: {base}")
