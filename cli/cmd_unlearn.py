"""`wb unlearn`: remove a model's knowledge of entities, by redirecting their activations or by a baseline method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.unlearn_options import NOT_SETTINGS, given_config, of_plan, unlearn_options


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
@options.text_option(required=False, help="General text to retain, targets left out; none retains no text.")
@options.out_option("The unlearned model, a Hugging Face folder.")
@unlearn_options
@options.run_options(resume=True, wandb=True)
def command(
    model: str,
    saes: tuple[Path, ...],
    forget: tuple[str, ...],
    forget_file: Path | None,
    device: str,
    plan: bool,
    as_json: bool,
    config_path: Path | None,
    param: tuple[str, ...],
    **given: Any,
) -> None:
    """Make the model not know the named entities: their activations move to where unknown ones lie.

    Other known entities, unknown entities and general text are retained. Ends in an error, without a model, when
    nothing changed or when the model collapsed. A name shared by two types is written as type:name.
    """
    from cli.output.unlearn_tables import show_forgotten, show_plan
    from sae_train.run.processes import joined_processes
    from unlearn import plan_unlearning, unlearn

    names, files = options.forget_names(forget, forget_file), {name: given.pop(name) for name in NOT_SETTINGS}
    words = {"forget": names, "sae": saes, "config": given_config(given, param)}
    if plan:
        return show_plan(plan_unlearning(model, **words, device=device, **of_plan(files)), as_json=as_json)
    with joined_processes() as processes:
        found = unlearn(model, **words, device=processes.own_device(device), processes=processes, **files)
    if processes.is_first:
        show_forgotten(found.result, names, as_json=as_json)
    return None
