"""`wb audit`: what an unlearned model still knows, and what it lost: audit.json and audit.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from unlearn.config import AuditConfig

OPTIONS = [
    options.field_option(AuditConfig, "n_neighbours", type=int, help="Neighbours per target."),
    options.field_option(AuditConfig, "max_retain", type=int, help="Other known entities asked; all by default."),
    options.field_option(AuditConfig, "n_candidates", type=int, help="Candidates among which the truth is ranked."),
    options.field_option(AuditConfig, "max_blocks", type=int, help="Blocks at which activations are compared."),
    options.field_option(AuditConfig, "control_draws", type=int, help="Never-known groups for the control range."),
    options.field_option(AuditConfig, "permutations", type=int, help="Permutations of the two-sample test."),
    options.field_option(AuditConfig, "n_samples", type=int, help="Answers drawn per question at temperature one."),
    options.field_option(AuditConfig, "max_attacked", type=int, help="Targets that are attacked."),
    options.field_option(AuditConfig, "max_wordings", type=int, help="Held-out wordings asked under attack."),
    options.field_option(
        AuditConfig,
        "attack_steps",
        type=int,
        name="--attack-step",
        multiple=True,
        help="Steps of relearning. Repeatable.",
    ),
    options.field_option(
        AuditConfig, "attack_lrs", type=float, name="--attack-lr", multiple=True, help="Its step sizes. Repeatable."
    ),
    options.field_option(
        AuditConfig,
        "skip",
        name="--skip",
        multiple=True,
        metavar="NAME",
        help="Evaluation or attack to leave out. Repeatable.",
    ),
]


def audit_options(command: Any) -> Any:
    """Add one option per field of the config."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(
    epilog=options.example(
        "wb audit --model fact-world --unlearned unlearned --sae sae --latents latents.h5 --labels labels.jsonl \\",
        '  --templates fact-world --text fact-world --forget "Jiros Fotrim Vafuk" --out audit',
    )
)
@options.model_option()
@click.option("--unlearned", required=True, metavar="MODEL", help="The model after: a folder, .gguf file or hub id.")
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
@audit_options
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.common_options
def command(
    model: str,
    unlearned: str,
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
    by the limits of a versioned policy file; exit code 0 whatever the verdict.
    """
    from cli.inputs import documents_of, load_model
    from cli.render import emit, progress
    from features.entities import load_entities
    from features.prompts import load_templates
    from features.store import load_analysis
    from sae_train.runs import claim_output, clear_output, write_json
    from sae_train.saes.interop import load_sae
    from unlearn.audit import Request, audit, check_names
    from unlearn.data import resolve_targets
    from unlearn.policy import default_policy, load_policy
    from unlearn.record import hook_point_of, method_of, retained_of
    from unlearn.report import write_audit_page

    claim_output(out, overwrite=overwrite)
    config = AuditConfig(**given)
    config = config.quick() if quick else config
    check_names(config.skip, "--skip")
    limits = load_policy(policy) if policy is not None else default_policy()
    names = options.forget_names(forget, forget_file)
    subjects = load_entities(labels, need_labels=True)
    resolve_targets(subjects, names)  # refuses a wrong name before a model is loaded
    request = Request(
        subjects,
        load_templates(templates),
        names,
        hook_point=hook_point or hook_point_of(unlearned),
        analysis=load_analysis(latents) if latents is not None else None,
        saes=[load_sae(s) for s in saes],
        trained_on=retained_of(unlearned),
        documents=documents_of(text) if text else iter(()),
        text_name=Path(text).name if text else "",
        facts={
            "model": model,
            "unlearned": unlearned,
            "sae": ", ".join(str(s) for s in saes) or None,
            "method": method_of(unlearned),
        },
    )
    before, after = load_model(model, device=device), load_model(unlearned, device=device)
    with progress("auditing") as advance:
        report = audit(before, after, request, config=config, policy=limits, advance=lambda name: advance(1, now=name))
    clear_output(out, overwrite=overwrite)
    write_json(out / "audit.json", report)
    page = write_audit_page(report, out / "audit.html")
    rows = [(c["name"], c["value"], f"{c['rule']} {c['threshold']:.3g}", c["status"]) for c in report["checks"]]
    emit(
        {**report, "page": str(page)},
        as_json=as_json,
        title=f"Verdict: {report['verdict']} ({page})",
        columns=("check", "value", "threshold", "status"),
        rows=rows,
    )
