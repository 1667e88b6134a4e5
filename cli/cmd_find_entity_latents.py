"""`wb find-entity-latents`: latents that tell known from unknown entities, with statistics and a page."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.checks import check_configs, check_options
from features.config import SelectionRule
from sae_train.fields import described


@click.command(
    epilog=options.example(
        "wb find-entity-latents --model fact-world --sae sae --labels labels.jsonl --templates fact-world \\",
        "  --max-general-rate 1 --out latents.h5",
    )
)
@options.model_option(required=False)
@options.sae_option(multiple=True)
@options.file_option("--labels", "labelled entities (JSON lines)", required=False)
@options.file_option("--templates", "prompt templates (JSON)", world="templates", required=False)
@options.file_option("--acts", "activations at names of an earlier --acts-out; no model is needed", required=False)
@click.option(
    "--position",
    type=click.Choice(["last", "first", "all", "end"]),
    help="Token that is read: last (the default), first or all of the name, or the end of the prompt.",
)
@click.option("--acts-out", type=click.Path(path_type=Path), help="Keep the activations at names, HDF5.")
@options.out_option("The analysis, HDF5; a .json and a .html go beside it.")
@options.file_option("--activations", "activation store, for the rate on running text", required=False)
@options.config_options(SelectionRule, without=("max_null_p", "n_shuffles"))
@options.lm_dtype_option("float32", "bfloat16")
@check_options
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.common_options
def command(
    model: str | None,
    saes: tuple[Path, ...],
    labels: Path | None,
    templates: Path | None,
    acts: Path | None,
    position: str | None,
    acts_out: Path | None,
    out: Path,
    activations: Path | None,
    lm_dtype: str,
    seed: int,
    device: str,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Mine latents on one half of the labelled entities and report them on the other half.

    Separation is firing frequency at the names of known entities minus unknown ones. p-values are corrected over
    all latents and hook points. A direction without a latent that passes stays empty. The gate says at which hook
    point the knowledge passes through the name and how much of it the latents hold.
    """
    from cli.names import claim_outputs, load_asked, names_of
    from cli.render import emit, note
    from features.causal_checks import add_checks, gate_line
    from features.mining import mine_names
    from features.report import write_latents_page
    from features.selection import DIRECTIONS
    from features.store import check_name, save_analysis
    from sae_train.activations.store import ActivationStore
    from sae_train.progress import shown
    from sae_train.runs import resolve_device
    from sae_train.saes.interop import load_sae

    claim_outputs(check_name(out), acts_out, overwrite=overwrite)
    loaded = [load_sae(s, device=resolve_device(device)) for s in saes]
    wanted: Any = check_configs(given, seed)
    rule = SelectionRule(**{name: given[name] for name in described(SelectionRule).keys() & given.keys()})
    with ExitStack() as stack:
        store = stack.enter_context(ActivationStore(activations)) if activations else None
        asked = load_asked(model, labels, templates, acts, device=device, dtype=lm_dtype)
        data = names_of(asked, acts, acts_out, loaded, position=position, seed=seed)
        analysis = mine_names(data, loaded, rule, store=store, seed=seed)
        if asked is not None:
            lm, subjects, texts = asked
            analysis = add_checks(lm, loaded, subjects, texts, analysis, shown, store=store, **wanted)
    save_analysis(analysis, out)
    for found in analysis.tables["finding"]:
        note(found["sentence"])
    note(gate_line(analysis))
    page = write_latents_page(analysis, out.with_suffix(".html"), with_figures=True)
    summary = {**analysis.summary(), "page": str(page)}
    rows = [
        (
            d,
            r["hook_point"],
            r["latent"],
            r["separation"],
            r["heldout_separation"],
            r["auroc"],
            r["q_value"],
            r["general_rate"],
        )
        for d in DIRECTIONS
        for r in summary[d]
    ]
    emit(
        summary,
        as_json=as_json,
        title=f"Latents (selected together: AUROC {summary['score_auroc']}; probe: {summary['probe_auroc']:.3f})",
        columns=("direction", "hook point", "latent", "separation", "held-out", "AUROC", "q", "general rate"),
        rows=rows,
    )
