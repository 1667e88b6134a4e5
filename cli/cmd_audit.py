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
@options.sae_option(multiple=True)
@options.latents_option
@options.labels_option
@options.templates_option
@options.forget_options
@options.text_option(required=False, help="General text for the loss; documents that name a target are left out.")
@options.out_option("Folder for audit.json and audit.html.")
@click.option("--hook-point", metavar="NAME", help="First block to audit; by default the one that was unlearned at.")
@audit_options
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.common_options
def command(
    model: str,
    unlearned: str,
    saes: tuple[Path, ...],
    latents: Path,
    labels: Path,
    templates: Path,
    forget: tuple[str, ...],
    forget_file: Path | None,
    text: str | None,
    out: Path,
    hook_point: str | None,
    device: str,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Compare two models on the named entities: what is said, what is kept, what is still inside.

    Works on any pair of models of one shape. The verdict is pass, fail or inconclusive by thresholds that are
    fixed and printed; exit code 0 whatever the verdict.
    """
    from cli.inputs import documents_of, load_model
    from cli.render import emit, progress
    from features.entities import load_entities
    from features.prompts import load_templates
    from features.store import load_analysis
    from sae_train.runs import claim_output, clear_output, write_json
    from sae_train.saes.interop import load_sae
    from unlearn.audit import audit
    from unlearn.data import resolve_targets
    from unlearn.record import hook_point_of, method_of, retained_of
    from unlearn.report import write_audit_page
    from unlearn.run import choose_hook_point

    claim_output(out, overwrite=overwrite)
    config = AuditConfig(**given)
    names = options.forget_names(forget, forget_file)
    subjects = load_entities(labels, need_labels=True)
    resolve_targets(subjects, names)  # refuses a wrong name before a model is loaded
    analysis, wordings = load_analysis(latents), load_templates(templates)
    read = [load_sae(s) for s in saes]
    recorded = hook_point_of(unlearned)
    if hook_point is None and recorded in [s.hook_point for s in read]:
        hook_point = recorded
    loaded, _ = choose_hook_point(read, analysis, hook_point)
    documents = documents_of(text) if text else iter(())
    before, after = load_model(model, device=device), load_model(unlearned, device=device)
    with progress("auditing") as advance:
        report = audit(
            before,
            after,
            loaded.hook_point,
            analysis,
            subjects,
            wordings,
            names,
            config=config,
            trained_on=retained_of(unlearned),
            documents=documents,
            text_name=Path(text).name if text else "",
            request={
                "model": model,
                "unlearned": unlearned,
                "sae": str(loaded.folder),
                "method": method_of(unlearned),
            },
            advance=lambda name: advance(1, now=name),
        )
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
