"""`wb eval-sae`: SAE quality on held-out documents and, given the model, the loss with it spliced in, and probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.usage import check_evaluation
from features.config import ProbingConfig
from sae_train.config import SaeEvalConfig


@click.command(
    epilog=options.example("wb eval-sae --sae sae --activations acts.h5 --model fact-world --text fact-world")
)
@options.sae_option()
@options.activations_option
@options.other_option
@options.model_option(required=False, help="Model, for the loss with the SAE spliced in (--text) and for --probes.")
@options.text_option(required=False, help="Text for the loss with the SAE spliced in: as in cache-activations.")
@options.config_options(SaeEvalConfig, without=("seed",))
@options.config_options(ProbingConfig, names={"probe_ks": "--probe-k"})
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
    interval. With --model and --probes also what few latents say about the labelled texts of the package sae-probes.
    """
    from cli.output.quality_table import show_quality
    from cli.usage import store_source
    from features import probe_sae
    from sae_train import eval_sae, load_lm

    probing = ProbingConfig(**{name: given.pop(name) for name in [*given] if name.startswith("probe")})
    config = SaeEvalConfig(**given)  # refuses bad values before the model is loaded
    check_evaluation(model, text, probing.probes)
    lm = None if model is None else load_lm(model, device=device)
    spliced = {"lm": None if text is None else lm, "text": text}
    source = store_source(activations)
    assert source is not None  # the option is required
    found = eval_sae(sae, source, other=other, device=device, config=config, **spliced)
    probed = probe_sae(sae, lm, device=device, config=probing) if lm is not None and probing.probes else None
    show_quality(found, probed, f"Quality of {sae}", text=text, as_json=as_json)
