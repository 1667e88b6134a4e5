"""`wb ledger`: the chain of removals, each entry with the hashes of everything it rests on."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options

ledger_option = click.option(
    "--ledger", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE", help="The ledger."
)


@click.group(
    epilog=options.example(
        "wb ledger add --ledger removals.jsonl --unlearned unlearned --audit audit --reference request-17",
        "wb ledger verify --ledger removals.jsonl",
        "wb ledger show --ledger removals.jsonl",
    )
)
def command() -> None:
    """Keep every removal as an entry chained by hash: request, inputs, config, model, audit, time.

    A changed byte in the ledger, in a model's folder or in an audit is found by `verify`. A chain cannot show that its
    end was cut off: keep the hash that `add` prints somewhere else, and give it to `verify --head`.
    """


@command.command("add", epilog=options.example("wb ledger add --ledger removals.jsonl --unlearned unlearned"))
@ledger_option
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
    from cli.render import emit, note
    from unlearn import Ledger

    entry = Ledger(ledger).add(unlearned, audit=audit, reference=reference)
    if audit is None:
        note("no --audit: the entry says what was done, not whether it worked")
    values = {"ledger": str(ledger), "entry": entry.index, "forget": entry.targets, "hash": entry.hash}
    emit(values, as_json=as_json, title="Added", rows=list(values.items()))


@command.command("verify", epilog=options.example("wb ledger verify --ledger removals.jsonl"))
@ledger_option
@click.option("--head", metavar="HASH", help="Hash of the last entry, as kept elsewhere.")
@options.common_options
def verify(ledger: Path, head: str | None, as_json: bool, config_path: Path | None) -> None:
    """Check the chain and all files it vouches for.

    Exit code 2 if anything was changed.
    """
    from cli.render import emit, note
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


@command.command("show", epilog=options.example("wb ledger show --ledger removals.jsonl"))
@ledger_option
@options.common_options
def show(ledger: Path, as_json: bool, config_path: Path | None) -> None:
    """Show the entries, and which model is the newest."""
    from dataclasses import asdict

    from cli.render import emit
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


@command.command("rollback", epilog=options.example("wb ledger rollback --ledger removals.jsonl --entry 0"))
@ledger_option
@click.option("--entry", type=click.IntRange(min=0), required=True, metavar="N", help="The newest active removal.")
@options.device_option
@options.common_options
def rollback(ledger: Path, entry: int, device: str, as_json: bool, config_path: Path | None) -> None:
    """Take back the newest removal.

    Its adapter is off and its base is the model to use again; nothing is deleted. The base is loaded and its weights
    are compared with the hash in the entry.
    """
    from cli.render import emit
    from unlearn import Ledger

    chain = Ledger(ledger)
    found = chain.roll_back(entry, device=device)
    base = chain.base_of(chain.entries()[entry])
    values = {"ledger": str(ledger), "entry": found.index, "rolled_back": entry, "model": base, "hash": found.hash}
    emit(values, as_json=as_json, title=f"Rolled back entry {entry}; the model to use: {base}")
