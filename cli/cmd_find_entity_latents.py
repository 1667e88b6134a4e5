"""`wb find-entity-latents`: latents that tell known from unknown entities, with statistics and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.checks import check_configs, check_options, position_option
from cli.usage import check_name_reading
from features.config import SelectionRule


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
@position_option
@click.option("--acts-out", type=click.Path(path_type=Path), help="Keep the activations at names, HDF5.")
@options.out_option("The analysis, HDF5; a .json and a .html go beside it.")
@options.file_option("--activations", "activation store, for the rate on running text", required=False)
@options.config_options(SelectionRule, without=("max_null_p", "n_shuffles"))
@options.lm_dtype_option("float32", "bfloat16")
@check_options
@options.run_options()
def command(
    saes: tuple[Path, ...],
    acts: Path | None,
    acts_out: Path | None,
    out: Path,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Mine latents on one half of the labelled entities and report them on the other half.

    Separation is firing frequency at the names of known entities minus unknown ones. p-values are corrected over
    all latents and hook points. A direction without a latent that passes stays empty. The gate says at which hook
    point the knowledge passes through the name and how much of it the latents hold.
    """
    from cli.output.latents_table import show_latents
    from features import find_entity_latents

    check_name_reading(given["model"], given["labels"], given["templates"], acts, acts_out, given["position"])
    files = {"store": given.pop("activations"), "names": acts, "names_out": acts_out, "dtype": given.pop("lm_dtype")}
    checks = {name: given.pop(name) for name in [*given] if name.startswith(("gate", "steering"))}
    if None not in (given["model"], given["labels"], given["templates"]):  # without a model nothing can be patched
        files |= check_configs(checks, given["seed"])
    found = find_entity_latents(given.pop("model"), list(saes), given.pop("labels"), out=out, **files, **given)
    show_latents(found, out, as_json=as_json)
