"""`wb eval-sae`: SAE quality on held-out documents and, given the model, the loss with the SAE spliced in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import SaeEvalConfig


@click.command(
    epilog=options.example("wb eval-sae --sae sae --activations acts.h5 --model fact-world --text fact-world")
)
@options.sae_option()
@options.activations_option
@options.other_option
@options.model_option(required=False, help="Language model, for the loss with the SAE spliced in.")
@options.text_option(
    required=False,
    help="Text for the loss with the SAE spliced in: .txt, .jsonl, .parquet, a hub dataset id, or fact-world.",
)
@options.config_options(SaeEvalConfig, without=("seed",))
@options.seed_option()
@options.device_option
@options.common_options
def command(
    sae: Path,
    activations: tuple[Path | str, ...],
    other: Path | None,
    model: str | None,
    text: str | None,
    device: str,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Measure FVU, L0 and dead latents on held-out documents; with --model and --text also CE recovered and KL.

    With the seed and share that the SAE was trained with, the documents are those it never saw. So are those of the
    text, if it is the text of the store; of another text all documents are taken. Every figure comes with its 95 %
    bootstrap interval over documents.
    """
    from cli.output.render import emit, note
    from cli.usage import store_source
    from sae_train import eval_sae, load_lm
    from sae_train.errors import ConfigError

    if (model is None) != (text is None):
        raise ConfigError("CE recovered needs both", got=f"--model {model}, --text {text}", expected="both, or neither")
    config = SaeEvalConfig(**given)  # refuses bad values before the model is loaded
    lm = None if model is None else load_lm(model, device=device)
    source = store_source(activations)
    assert source is not None  # the option is required
    found = eval_sae(sae, source, other=other, lm=lm, text=text, device=device, config=config)
    if found.text_held_out is False:
        note(f"{text} is not the text of the store: all its documents are taken, whether the SAE saw them or not")
    emit(found.summary(), as_json=as_json, title=f"Quality of {sae}")
