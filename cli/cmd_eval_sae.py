"""`wb eval-sae`: the quality of one SAE on held-out documents and, with the model, what it costs in loss."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cli import options
from sae_train.config import SaeTrainConfig, require

CE_WINDOWS_TOKENS = 20_000


@click.command(
    epilog=options.example("wb eval-sae --sae sae --activations acts.h5 --model fact-world --text fact-world")
)
@options.sae_option()
@options.activations_option
@options.model_option(required=False, help="Language model, for the loss with the SAE spliced in.")
@options.text_option(required=False, help="Text for that loss.")
@options.field_option(SaeTrainConfig, "holdout_share", type=float, help="Share of documents to measure on.")
@click.option("--max-tokens", type=int, default=CE_WINDOWS_TOKENS, show_default=True, help="Tokens of text to splice.")
@options.seed_option()
@options.device_option
@options.common_options
def command(
    sae: Path,
    activations: Path,
    model: str | None,
    text: str | None,
    holdout_share: float,
    max_tokens: int,
    seed: int,
    device: str,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Measure FVU, L0 and dead latents on held-out documents; with --model and --text also CE recovered.

    With the seed and share that the SAE was trained with, the documents are those it never saw.
    """
    from cli.inputs import documents_of, load_model
    from cli.render import emit
    from sae_train.activations.store import ActivationStore
    from sae_train.errors import ConfigError
    from sae_train.evaluate import store_quality
    from sae_train.lm.hooks import check_hook_point
    from sae_train.lm.windows import plan_windows
    from sae_train.runs import resolve_device
    from sae_train.saes.interop import load_sae
    from sae_train.splice import spliced_loss

    require(0 < holdout_share < 1, "--holdout-share", holdout_share, "0 < share < 1")
    if (model is None) != (text is None):
        raise ConfigError("CE recovered needs both", got=f"--model {model}, --text {text}", expected="both, or neither")
    loaded = load_sae(sae, device=resolve_device(device))
    with ActivationStore(activations) as store:
        name = store.hook_point(loaded.hook_point)
        started = _clock()
        quality = store_quality(loaded.sae, store, name, store.holdout_rows(holdout_share, seed))
        speed = quality.n_tokens / max(1e-9, _clock() - started)
    values: dict[str, Any] = {"hook_point": name, **asdict(quality), "tokens_per_s": speed}
    if model is not None and text is not None:
        lm = load_model(model, device=device)
        name = check_hook_point(lm.model, name, model_name=model)
        documents = itertools.islice(documents_of(text), 100_000)
        plan = plan_windows(documents, lm.tokenizer, ctx_len=min(128, lm.max_positions), max_rows=max_tokens)
        values |= asdict(spliced_loss(lm, loaded.sae, name, plan))
    emit(values, as_json=as_json, title=f"Quality of {sae}")


def _clock() -> float:
    import time

    return time.monotonic()
