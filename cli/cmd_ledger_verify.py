"""`wb ledger verify`: check the hash chain and all files that it covers."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options


@click.command("verify", epilog=options.example("wb ledger verify --ledger removals.jsonl"))
@options.ledger_option
@click.option("--head", metavar="HASH", help="Hash of the last entry, as kept elsewhere.")
@options.common_options
def verify(ledger: Path, head: str | None, as_json: bool, config_path: Path | None) -> None:
    """Check the chain and all files it vouches for.

    Exit code 2 if anything was changed.
    """
    from cli.output.render import emit, note
    from unlearn import Ledger

    complaints = Ledger(ledger).verify(head=head)
    values = {"ledger": str(ledger), "ok": not complaints, "complaints": complaints}
    if not complaints:
        values |= {"entries": len(Ledger(ledger).entries()), "head": Ledger(ledger).head()}
    emit(values, as_json=as_json, title="Unchanged" if not complaints else "Changed")
    for text in complaints:
        note(text)
    if complaints:
        raise click.exceptions.Exit(2)
