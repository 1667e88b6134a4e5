"""`wb find-entity-latents`: latents that tell known from unknown entities, with statistics and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.checks import check_configs, check_options


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
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Latents per direction and hook point.",
)
@click.option("--max-q", type=float, default=0.05, show_default=True, help="Largest Benjamini-Hochberg q.")
@click.option("--min-separation", type=float, default=0.1, show_default=True, help="Smallest MaxMin separation.")
@click.option(
    "--max-general-rate",
    type=float,
    default=0.02,
    show_default=True,
    help="Largest rate on running text; 1: no rule.",
)
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
    top: int,
    max_q: float,
    min_separation: float,
    max_general_rate: float,
    lm_dtype: str,
    seed: int,
    device: str,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
    **checks: Any,
) -> None:
    """Mine latents on one half of the labelled entities and report them on the other half.

    Separation is firing frequency at the names of known entities minus unknown ones. p-values are corrected over
    all latents and hook points. A direction without a latent that passes stays empty. The gate says at which hook
    point the knowledge passes through the name and how much of it the latents hold.
    """
    from cli.render import emit, note
    from features import find_entity_latents
    from features.causal_checks import gate_line
    from features.latents_view import HEADS, shown_rows

    _check_usage({"--model": model, "--labels": labels, "--templates": templates}, acts, acts_out, position)
    rule = {"top": top, "max_q": max_q, "min_separation": min_separation, "max_general_rate": max_general_rate}
    read = {"names": acts, "names_out": acts_out, "position": position, "store": activations}
    where = {"device": device, "dtype": lm_dtype, "overwrite": overwrite, "out": out}
    has_lm = None not in (model, labels, templates)  # without a model nothing can be patched
    wanted: Any = {**rule, **read, **where, **(check_configs(checks, seed) if has_lm else {}), "seed": seed}
    found = find_entity_latents(model, list(saes), labels, templates=templates, **wanted)
    for row in found.tables["finding"]:
        note(row["sentence"])
    note(gate_line(found))
    summary = {**found.summary(), "page": str(out.with_suffix(".html"))}
    together = f"selected together: AUROC {summary['score_auroc']}; probe: {summary['probe_auroc']:.3f}"
    emit(summary, as_json=as_json, title=f"Latents ({together})", columns=HEADS, rows=shown_rows(found))


def _check_usage(asked: dict[str, Any], acts: Path | None, acts_out: Path | None, position: str | None) -> None:
    """Refuse a call that neither says whose names are read nor where they have been read already.

    Raises:
        click.UsageError: Something is missing, or two ways are mixed.
    """
    missing = [name for name, value in asked.items() if value is None]
    if missing and acts is None:
        raise click.UsageError(f"Missing option {', '.join(missing)}; only --acts FILE does without.")
    for name, value in (("--position", position), ("--acts-out", acts_out)):
        if value is not None and acts is not None:
            raise click.UsageError(f"{name} says how names are read; --acts has them read already.")
