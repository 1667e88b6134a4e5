"""`wb unlearn`: make a model not know an entity, by redirecting its activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from unlearn.config import BLOCK_CHOICES, LATENT_CHOICES, POSITION_CHOICES, TRAIN_CHOICES, UnlearnConfig

OPTIONS = [
    options.field_option(UnlearnConfig, "method", type=str, help="Method; redirect is the one there is."),
    options.field_option(UnlearnConfig, "steps", type=int, help="Optimizer steps."),
    options.field_option(UnlearnConfig, "lr", type=float, help="Step size."),
    options.field_option(UnlearnConfig, "batch_size", type=int, help="Target prompts in a step."),
    options.field_option(UnlearnConfig, "latent_weight", type=float, help="Weight of the selected latents."),
    options.field_option(
        UnlearnConfig, "block_weight", type=float, help="Weight of the distance to the unknown entity."
    ),
    options.field_option(UnlearnConfig, "output_weight", type=float, help="Weight of the next-token distribution."),
    options.field_option(UnlearnConfig, "erase_behind", help="Also erase what lies behind the name's activation."),
    options.field_option(UnlearnConfig, "erase_weight", type=float, help="Weight of that."),
    options.field_option(UnlearnConfig, "retain_weight", type=float, help="Weight of what has to stay."),
    options.field_option(UnlearnConfig, "blocks", type=click.Choice(BLOCK_CHOICES), help="Blocks that are redirected."),
    options.field_option(UnlearnConfig, "positions", type=click.Choice(POSITION_CHOICES), help="Tokens that are."),
    options.field_option(
        UnlearnConfig, "which_latents", type=click.Choice(LATENT_CHOICES), help="Latents of the latent term."
    ),
    options.field_option(UnlearnConfig, "answers", help="Redirect questions with an answer behind them, too."),
    options.field_option(UnlearnConfig, "sae_error", help="Aim at the activation itself, or at its reconstruction."),
    options.field_option(UnlearnConfig, "train", type=click.Choice(TRAIN_CHOICES), help="Parameters that may change."),
    options.field_option(UnlearnConfig, "hook_point", type=str, help="SAE to use; by default the one that tells most."),
    options.field_option(UnlearnConfig, "retain_share", type=float, help="Share of known entities trained on."),
    options.field_option(UnlearnConfig, "warmup_steps", type=int, help="Steps of warm-up."),
    options.field_option(
        UnlearnConfig, "max_loss_increase", type=float, help="Rise of retained loss that is a collapse."
    ),
    options.field_option(UnlearnConfig, "save_every", type=int, help="Steps between checkpoints."),
]


def unlearn_options(command: Any) -> Any:
    """Add one option per field of the config."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


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
@options.out_option("The unlearned model, a Hugging Face folder.")
@unlearn_options
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
    out: Path,
    device: str,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Make the model not know the named entities: their activations move to where unknown ones lie.

    Other known entities, unknown entities and general text are retained. Ends in an error, without a model, when
    nothing changed or when the model collapsed. A name shared by two types is written as type:name.
    """
    from cli.inputs import documents_of, load_model
    from cli.render import emit, note, progress
    from features.entities import load_entities
    from features.prompts import load_templates
    from features.store import load_analysis
    from sae_train.runs import claim_output
    from sae_train.saes.interop import load_sae
    from unlearn.data import resolve_targets
    from unlearn.methods import METHODS, require_method
    from unlearn.run import unlearn

    claim_output(out, overwrite=overwrite, resume=resume)
    config = UnlearnConfig(**given)
    require_method(config.method, METHODS)
    names = options.forget_names(forget, forget_file)
    subjects = load_entities(labels, need_labels=True)
    resolve_targets(subjects, names)  # refuses a wrong name before the model is loaded
    analysis, wordings = load_analysis(latents), load_templates(templates)
    documents = documents_of(text) if text else iter(())
    lm = load_model(model, device=device)
    loaded = [load_sae(s, device=lm.device) for s in saes]
    if text is None:
        note("no --text: only what the templates ask is retained, no general text")
    with progress("unlearning", config.steps) as advance:
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
            resume=resume,
            overwrite=overwrite,
            advance=lambda n, terms: advance(n, **terms),
        )
    emit(result, as_json=as_json, title=f"Forgotten: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}")
