"""`wb ledger`: the chain of removals; each entry holds the hashes of everything it rests on."""

from __future__ import annotations

import click

from cli import options
from cli.cmd_ledger_add import add
from cli.cmd_ledger_rollback import rollback
from cli.cmd_ledger_show import show
from cli.cmd_ledger_verify import verify


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


for subcommand in (add, verify, show, rollback):
    command.add_command(subcommand)
