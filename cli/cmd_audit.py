"""`wb audit`: measure what an unlearned model still knows and what it lost; writes audit.json and audit.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.audit_options import audit_options, model_options


@click.command(
    epilog=options.example(
        "wb audit --model fact-world --unlearned unlearned --sae sae --latents latents.h5 --labels labels.jsonl \\",
        '  --templates fact-world --text fact-world --forget "Jiros Fotrim Vafuk" --out audit',
    )
)
@options.model_option()
@model_options
@options.sae_option(multiple=True, required=False, also=", or of a crosscoder of the two models")
@options.file_option("--latents", "mined latents (HDF5)", required=False)
@options.labels_option
@options.templates_option
@options.forget_options
@options.text_option(required=False, help="General text for the loss; documents that name a target are left out.")
@options.out_option("Folder for audit.json and audit.html.")
@audit_options
@options.run_options()
def command(
    model: str,
    unlearned: str | None,
    ledger: Path | None,
    saes: tuple[Path, ...],
    forget: tuple[str, ...],
    forget_file: Path | None,
    out: Path,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Compare two models on the named entities: what is said, kept and still inside, and what attacks bring back.

    Works on any pair of models of one shape; SAEs and latents are optional. The verdict is pass, fail or inconclusive
    by the limits of a versioned policy file; exit code 0 whatever the verdict. With --ledger, every removal in it is
    audited again on its newest model (or on --unlearned), and the result says which came back.
    """
    options.check_audited(unlearned, ledger, forget, forget_file, given["compare"])
    from cli.output.audit_tables import show_audit, show_removals
    from unlearn import audit, audit_ledger

    given |= {"sae": saes, "out": out}
    if ledger is not None:
        del given["compare"]
        removals = audit_ledger(ledger, model, unlearned=unlearned, **given)
        return show_removals(removals, ledger, out, as_json=as_json)
    names = options.forget_names(forget, forget_file)
    return show_audit(audit(model, unlearned or "", forget=names, **given), out, as_json=as_json)
