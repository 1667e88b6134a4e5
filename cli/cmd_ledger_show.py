"""`wb ledger show`: list the entries and the newest model."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options


@click.command("show", epilog=options.example("wb ledger show --ledger removals.jsonl"))
@options.ledger_option
@options.common_options
def show(ledger: Path, as_json: bool, config_path: Path | None) -> None:
    """Show the entries, and which model is the newest."""
    from dataclasses import asdict

    from cli.output.render import emit
    from unlearn import Ledger

    chain = Ledger(ledger)
    entries, newest = chain.entries(), chain.newest_model()
    active = {e.index for e in chain.removals()}
    rows = [
        (
            e.index,
            e.time,
            e.action if e.index in active or e.action == "rollback" else f"{e.action}, rolled back",
            e.targets,
            e.config.get("method"),
            None if e.audit is None else e.audit.verdict,
            e.model["folder"],
        )
        for e in entries
    ]
    emit(
        {"ledger": str(ledger), "newest_model": newest, "entries": [asdict(e) for e in entries]},
        as_json=as_json,
        title=f"Newest model: {newest or 'none'}",
        columns=("entry", "time", "what", "forget", "method", "verdict", "model"),
        rows=rows,
    )
