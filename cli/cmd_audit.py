"""`wb audit`: what an unlearned model still knows, and what it lost: audit.json and audit.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from unlearn.config import AuditConfig


@click.command(
    epilog=options.example(
        "wb audit --model fact-world --unlearned unlearned --sae sae --latents latents.h5 --labels labels.jsonl \\",
        '  --templates fact-world --text fact-world --forget "Jiros Fotrim Vafuk" --out audit',
    )
)
@options.model_option()
@click.option(
    "--unlearned", type=options.ModelSpec(), metavar="MODEL", help="The model after: a folder, .gguf file or hub id."
)
@click.option(
    "--compare",
    type=options.ModelSpec(),
    multiple=True,
    metavar="MODEL",
    help="Another unlearned model, a baseline: measured and shown beside it. Repeatable.",
)
@options.file_option("--ledger", "removals, all to be audited again on the newest model", required=False)
@options.sae_option(multiple=True, required=False)
@options.file_option("--latents", "mined latents (HDF5)", required=False)
@options.labels_option
@options.templates_option
@options.forget_options
@options.text_option(required=False, help="General text for the loss; documents that name a target are left out.")
@options.out_option("Folder for audit.json and audit.html.")
@click.option("--hook-point", metavar="NAME", help="Where a known-unknown probe reads; by default the recorded one.")
@options.file_option("--policy", "limits of the verdict (TOML); the shipped ones by default", required=False)
@click.option("--quick", is_flag=True, help="Fewer draws, one relearning run, fewer targets attacked.")
@options.config_options(
    AuditConfig, without=("seed",), names={"attack_steps": "--attack-step", "attack_lrs": "--attack-lr"}
)
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.common_options
def command(
    model: str,
    unlearned: str | None,
    compare: tuple[str, ...],
    ledger: Path | None,
    saes: tuple[Path, ...],
    latents: Path | None,
    labels: Path,
    templates: Path,
    forget: tuple[str, ...],
    forget_file: Path | None,
    text: str | None,
    out: Path,
    hook_point: str | None,
    policy: Path | None,
    quick: bool,
    device: str,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Compare two models on the named entities: what is said, kept and still inside, and what attacks bring back.

    Works on any pair of models of one shape; SAEs and latents are optional. The verdict is pass, fail or inconclusive
    by the limits of a versioned policy file; exit code 0 whatever the verdict. With --ledger, every removal in it is
    audited again on its newest model (or on --unlearned), and the result says which came back.
    """
    from cli.auditing import Job, audit_ledger, audit_one
    from features.entities import load_entities
    from features.prompts import load_templates
    from features.store import load_analysis
    from sae_train.lm.tokens import load_documents
    from sae_train.runs import claim_output
    from sae_train.saes.interop import load_sae
    from unlearn.audit import check_names
    from unlearn.evaluations.benchmarks import check_tasks
    from unlearn.policy import default_policy, load_policy
    from unlearn.request import Request

    claim_output(out, overwrite=overwrite)
    config = AuditConfig(**given)
    config = config.quick() if quick else config
    check_names(config.skip, "--skip")
    check_tasks(config.lm_eval)
    request = Request(
        load_entities(labels, need_labels=True),
        load_templates(templates),
        (),
        hook_point=hook_point,
        analysis=load_analysis(latents) if latents is not None else None,
        saes=[load_sae(s) for s in saes],
        documents=load_documents(text) if text else iter(()),
        text_name=Path(text).name if text else "",
        facts={"model": model, "sae": ", ".join(str(s) for s in saes) or None},
    )
    limits = load_policy(policy) if policy is not None else default_policy()
    job = Job(model, unlearned, request, config, limits, out, device=device, overwrite=overwrite, as_json=as_json)
    if ledger is None:
        audit_one(job, options.forget_names(forget, forget_file), compare)
    else:
        audit_ledger(job, ledger, (*forget, *([] if forget_file is None else [str(forget_file)])), compare)
