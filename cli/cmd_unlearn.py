"""`wb unlearn`: remove a model's knowledge of entities, by redirecting their activations or by a baseline method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.unlearn_options import NOT_SETTINGS, explicit, unlearn_options
from unlearn.config import configure
from unlearn.settings.registry import read_params


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
    as_json: bool,
    config_path: Path | None,
    param: tuple[str, ...],
    **given: Any,
) -> None:
    """Make the model not know the named entities: their activations move to where unknown ones lie.

    Other known entities, unknown entities and general text are retained. Ends in an error, without a model, when
    nothing changed or when the model collapsed. A name shared by two types is written as type:name.
    """
    from cli.output.render import emit
    from sae_train.run.processes import joined_processes
    from unlearn import unlearn

    names, files = options.forget_names(forget, forget_file), {name: given.pop(name) for name in NOT_SETTINGS}
    config = configure(**explicit(given), **read_params(given["method"], param))
    with joined_processes() as processes:
        files |= {"device": processes.own_device(device), "processes": processes}
        found = unlearn(model, forget=names, sae=saes, config=config, **files)
    if processes.is_first:
        more = " …" if len(names) > 5 else ""
        emit(found.result, as_json=as_json, title=f"Forgotten: {', '.join(names[:5])}{more}")
