"""`wb unlearn`: make a model not know an entity, by redirecting its activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.unlearn_options import explicit, param_option, unlearn_options
from unlearn.config import configure
from unlearn.settings import read_params


@click.command(
    epilog=options.example(
        "wb unlearn --model fact-world --sae sae --latents latents.h5 --labels labels.jsonl \\",
        '  --templates fact-world --text fact-world --forget "Jiros Fotrim Vafuk" --out unlearned',
    )
)
@options.model_option()
@options.sae_option(multiple=True)
@options.latents_option
@options.labels_option
@options.templates_option
@options.forget_options
@options.text_option(required=False, help="General text to retain; documents that name a target are left out.")
@click.option(
    "--original",
    type=options.ModelSpec(),
    metavar="MODEL",
    help="The model before the first removal, as which everything else is kept; by default as unlearning.json says.",
)
@options.out_option("The unlearned model, a Hugging Face folder.")
@unlearn_options
@param_option
@options.wandb_option
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.resume_option
@options.common_options
def command(
    model: str,
    saes: tuple[Path, ...],
    latents: Path,
    labels: Path,
    templates: Path,
    forget: tuple[str, ...],
    forget_file: Path | None,
    text: str | None,
    original: str | None,
    out: Path,
    device: str,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    config_path: Path | None,
    param: tuple[str, ...],
    wandb: str | None,
    **given: Any,
) -> None:
    """Make the model not know the named entities: their activations move to where unknown ones lie.

    Other known entities, unknown entities and general text are retained. Ends in an error, without a model, when
    nothing changed or when the model collapsed. A name shared by two types is written as type:name.
    """
    from cli.inputs import load_original
    from cli.render import emit, note
    from features.entities import load_entities
    from features.prompts import load_templates
    from features.store import load_analysis
    from sae_train.lm.models import load_lm
    from sae_train.lm.tokens import load_documents
    from sae_train.processes import joined_processes
    from sae_train.progress import shown
    from sae_train.runs import claim_output
    from sae_train.saes.interop import load_sae
    from unlearn.data import resolve_targets
    from unlearn.record import chain_of, removed_from
    from unlearn.run import choose_hook_point, gate_warning, unlearn

    claim_output(out, overwrite=overwrite, resume=resume)
    config = configure(**explicit(given), **read_params(given["method"], param))
    names = options.forget_names(forget, forget_file)
    subjects = load_entities(labels, need_labels=True)
    resolve_targets(subjects, names)  # refuses a wrong name before the model is loaded
    analysis, wordings = load_analysis(latents), load_templates(templates)
    documents = load_documents(text) if text else iter(())
    if text is None:
        note("no --text: only what the templates ask is retained, no general text")
    with joined_processes() as processes, shown("unlearning", config.steps) as advance:
        lm = load_lm(model, device=processes.own_device(device))
        loaded = [load_sae(s, device=lm.device) for s in saes]
        first, missing = load_original(model, original, device=processes.own_device(device))
        for warning in (gate_warning(analysis, choose_hook_point(loaded, analysis, config.hook_point)[1]), missing):
            if warning and processes.is_first:
                note(warning)
        result = unlearn(
            lm,
            loaded,
            analysis,
            subjects,
            wordings,
            names,
            config,
            out,
            documents=documents,
            original=first,
            earlier=removed_from(model),
            chain=chain_of(model),
            resume=resume,
            overwrite=overwrite,
            processes=processes,
            wandb=wandb,
            advance=lambda n, terms: advance(n, **terms),
        )
    if processes.is_first:
        emit(result, as_json=as_json, title=f"Forgotten: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}")
