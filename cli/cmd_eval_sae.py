"""`wb eval-sae`: the quality of one SAE on held-out documents and, with the model, what it costs in loss."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options
from sae_train.config import SaeTrainConfig

if TYPE_CHECKING:
    import numpy as np

    from sae_train.activations.store import ActivationStore
    from sae_train.saes.base import Sae

CE_WINDOWS_TOKENS = 20_000
CTX_LEN = 128
MOST_DOCUMENTS = 100_000  # of a text that is not the store's


@click.command(
    epilog=options.example("wb eval-sae --sae sae --activations acts.h5 --model fact-world --text fact-world")
)
@options.sae_option()
@options.activations_option
@options.model_option(required=False, help="Language model, for the loss with the SAE spliced in.")
@options.text_option(
    required=False,
    help="Text for the loss with the SAE spliced in: .txt, .jsonl, .parquet, a hub dataset id, or fact-world.",
)
@options.config_options(SaeTrainConfig, only=("holdout_share",))
@click.option(
    "--max-tokens",
    type=int,
    default=CE_WINDOWS_TOKENS,
    show_default=True,
    help="Tokens of the text on which the loss is measured.",
)
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
    """Measure FVU, L0 and dead latents on held-out documents; with --model and --text also CE recovered and KL.

    With the seed and share that the SAE was trained with, the documents are those it never saw. So are those of the
    text, if it is the text of the store; of another text all documents are taken. Every figure comes with its 95 %
    bootstrap interval over documents.
    """
    import time

    from cli.render import emit
    from sae_train.activations.store import ActivationStore
    from sae_train.errors import ConfigError
    from sae_train.evaluate import store_quality
    from sae_train.intervals import flat
    from sae_train.runs import resolve_device
    from sae_train.saes.interop import load_sae

    if (model is None) != (text is None):
        raise ConfigError("CE recovered needs both", got=f"--model {model}, --text {text}", expected="both, or neither")
    loaded = load_sae(sae, device=resolve_device(device))
    with ActivationStore(activations) as store:
        name = store.hook_point(loaded.hook_point)
        held_out = store.holdout_rows(holdout_share, seed)
        started = time.monotonic()
        quality = store_quality(loaded.sae, store, name, held_out)
        speed = quality.n_tokens / max(1e-9, time.monotonic() - started)
        values: dict[str, Any] = {"hook_point": name, **flat(quality), "tokens_per_s": speed}
        if model is not None and text is not None:
            values |= _spliced(loaded.sae, name, store, held_out, model, text, max_tokens=max_tokens, device=device)
    emit(values, as_json=as_json, title=f"Quality of {sae}")


def _spliced(
    sae: Sae,
    hook_point: str,
    store: ActivationStore,
    held_out: np.ndarray,
    model: str,
    text: str,
    *,
    max_tokens: int,
    device: str,
) -> dict[str, Any]:
    """Measure what the SAE costs the model, on held-out documents where the text is the store's."""
    from cli.render import note
    from sae_train.intervals import flat
    from sae_train.lm.hooks import check_hook_point
    from sae_train.lm.models import load_lm
    from sae_train.lm.tokens import load_documents
    from sae_train.lm.windows import plan_windows
    from sae_train.splice import heldout_documents, spliced_loss

    lm = load_lm(model, device=device)
    name = check_hook_point(lm.model, hook_point, model_name=model)
    documents = heldout_documents(store, held_out, load_documents(text), lm, most=max_tokens)
    if documents is None:
        note(f"{text} is not the text of the store: all its documents are taken, whether the SAE saw them or not")
    chosen = itertools.islice(load_documents(text), MOST_DOCUMENTS) if documents is None else documents
    plan = plan_windows(chosen, lm.tokenizer, ctx_len=min(CTX_LEN, lm.max_positions), max_rows=max_tokens)
    return {**flat(spliced_loss(lm, sae, name, plan)), "text_held_out": documents is not None}
