"""`wb ledger add`: append a removal."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options


@click.command("add", epilog=options.example("wb ledger add --ledger removals.jsonl --unlearned unlearned"))
@options.ledger_option
@click.option(
    "--unlearned", type=options.ExistingFolder("an unlearned model"), required=True, help="A folder of wb unlearn."
)
@click.option("--audit", type=click.Path(path_type=Path, exists=False), help="A folder of wb audit, about that model.")
@click.option("--reference", default="", metavar="TEXT", help="What the request is called elsewhere.")
@options.common_options
def add(
    ledger: Path, unlearned: Path, audit: Path | None, reference: str, as_json: bool, config_path: Path | None
) -> None:
    """Append a removal.

    It has to be made from the model of the newest one: otherwise the earlier ones would come back.
    """
    from cli.output.render import emit, note
    from unlearn import Ledger

    entry = Ledger(ledger).add(unlearned, audit=audit, reference=reference)
    if audit is None:
        note("no --audit: the entry says what was done, not whether it worked")
    values = {"ledger": str(ledger), "entry": entry.index, "forget": entry.targets, "hash": entry.hash}
    emit(values, as_json=as_json, title="Added", rows=list(values.items()))
