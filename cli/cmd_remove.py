"""`wb remove`: a removal request from a name to an audited model, in one folder; stations are kept and reused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.remove_options import NOT_OF_PLAN, grouped, remove_options


@click.command(
    epilog=options.example(
        'wb remove "Jiros Fotrim Vafuk" --model fact-world --text fact-world --n-rows 10000 --sae-tokens 60000 \\',
        "  --sae-k 8 --sae-expansion 2 --max-general-rate 1 --out removed",
    )
)
@click.argument("target", metavar="NAME")
@options.model_option()
@options.text_option(
    required=False, help="General text: SAEs are trained on it, one half is retained, the other measures the price."
)
@options.out_option("Folder of the request: model, audit, ledger, removal.html.")
@remove_options
@options.run_options()
def command(target: str, model: str, plan: bool, as_json: bool, config_path: Path | None, **given: Any) -> None:
    """Make a model forget NAME, and audit it: every station from the name to the page.

    Asks the model what it knows about the name and which other names it knows, labels them, looks where the knowledge
    passes, caches activations there, trains SAEs, finds latents, removes, audits, enters the removal in a ledger and
    writes one page. A name that the model does not know is refused, with exit code 2.

    The same command goes on where it was interrupted, and skips what has not changed. --work shares the stations
    between names. A gradient method takes hours where the default, the closed form, takes minutes.
    """
    from cli.output.removal_tables import show_plan, show_removed
    from unlearn.request.removing import plan_removal, remove

    request = grouped(given)
    if plan:
        request = {key: value for key, value in request.items() if key not in NOT_OF_PLAN}
        return show_plan(plan_removal(model, target, **request), target, as_json=as_json)
    return show_removed(remove(model, target, **request), as_json=as_json)
