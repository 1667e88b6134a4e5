"""Stations on trained SAEs: evaluate the quality of one, and compare the latents of two."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sae_train.activations.joined import joined_rows, opened_pair
from sae_train.activations.several import StoreSource, opened_store
from sae_train.activations.store import ActivationStore
from sae_train.config import CompareConfig, SaeEvalConfig
from sae_train.errors import ConfigError
from sae_train.fields import config_of, default_of
from sae_train.intervals import flat
from sae_train.lm.hooks import check_hook_point
from sae_train.lm.models import LanguageModel, as_lm
from sae_train.quality.evaluate import firing_rate, store_quality
from sae_train.quality.metrics import SaeQuality
from sae_train.quality.splice import SplicedLoss, heldout_documents, spliced_loss
from sae_train.saes.base import Sae, as_sae
from sae_train.saes.comparison import SaeComparison, match_latents
from sae_train.saes.paired.crosscoder import SideComparison, side_comparison
from sae_train.text.tokens import Corpus, Text, corpus_of
from sae_train.text.windows import plan_windows

CTX_LEN = 128  # of the windows on which an SAE is spliced into the model
MOST_DOCUMENTS = 100_000  # of a text that is not the store's


@dataclass(frozen=True)
class SaeEvaluation:
    """How good an SAE is; every figure with its 95 % bootstrap interval over documents.

    Attributes:
        hook_point: Where it reads.
        quality: FVU, L0, dead latents on held-out documents of the store.
        tokens_per_s: Rows of the store measured per second.
        spliced: What its reconstruction costs the language model; None without one.
        text_held_out: Whether the text of `spliced` is the store's, so that only documents were taken that the
            training held out; None without a language model.
    """

    hook_point: str
    quality: SaeQuality
    tokens_per_s: float
    spliced: SplicedLoss | None = None
    text_held_out: bool | None = None

    def summary(self) -> dict[str, Any]:
        """Return it as `wb eval-sae --json` prints it."""
        found = {"hook_point": self.hook_point, **flat(self.quality), "tokens_per_s": self.tokens_per_s}
        if self.spliced is None:
            return found
        return {**found, **flat(self.spliced), "text_held_out": self.text_held_out}


def eval_sae(
    sae: Sae | str | Path,
    store: StoreSource,
    *,
    other: StoreSource | None = None,
    lm: LanguageModel | str | Path | None = None,
    text: Text | None = None,
    device: str = "auto",
    config: SaeEvalConfig | None = None,
    **settings: Any,
) -> SaeEvaluation:
    """Measure an SAE on held-out documents and, with a language model, what its reconstruction costs in loss.

    With the seed and share that the SAE was trained with, the documents are those it never saw. So are those of the
    text, if it is the text of the store; of another text all documents are taken.

    Args:
        sae: The SAE, or what `Sae.load` takes.
        store: Activations, open or as a path.
        other: The other model's, for a crosscoder.
        lm: The language model, or what `load_lm` takes; with `text` only.
        text: Text for the loss: a path, a hub dataset id, a `Corpus`, or documents or strings.
        device: Where what is loaded here lives.
        config: Settings together, instead of one by one.
        settings: Fields of `SaeEvalConfig`: `frac_holdout`, `max_tokens`, `seed`.

    Raises:
        ConfigError: A setting does not exist or is out of range, or one of `lm` and `text` is missing.
        HookPointError: The store, or the model, has no such hook point.
        ShapeError: The SAE reads activations of another width.
    """
    config = config_of(SaeEvalConfig, config, settings, can_change=True)
    if (lm is None) != (text is None):
        missing = "lm" if lm is None else "text"
        raise ConfigError("CE recovered needs a model and a text", got=f"no {missing}", expected="lm and text")
    corpus = None if text is None else corpus_of(text)
    sae = as_sae(sae, device=device)
    _check_sides(sae, other, is_spliced=lm is not None)
    with opened_pair(store, other) as opened:
        name = opened.hook_point(sae.hook_point)
        held_out = opened.holdout_rows(config.frac_holdout, config.seed)
        started = time.monotonic()
        rows = joined_rows(opened, sae.target_hook_point)
        quality = store_quality(sae, rows, name, held_out)
        speed = quality.n_tokens / max(1e-9, time.monotonic() - started)
        found = SaeEvaluation(name, quality, speed)
        if lm is None or corpus is None:
            return found
        lm = as_lm(lm, device=device)
        loss, is_held_out = _spliced(sae, name, opened, held_out, lm, corpus, config.max_tokens)
    return replace(found, spliced=loss, text_held_out=is_held_out)


def _check_sides(sae: Sae, other: object, *, is_spliced: bool) -> None:
    """Refuse a crosscoder without the other model's activations, and such activations for anything else.

    Raises:
        ConfigError: So it is, or a crosscoder is to be put into one of its models.
    """
    if (len(sae.sides) > 1) != (other is not None):
        got = "no activations of the other model" if other is None else f"`other`, for {sae.name}, an SAE of one model"
        raise ConfigError(
            "a crosscoder reads two stores, an SAE one", got=got, expected="`other` for a crosscoder only"
        )
    if is_spliced and other is not None:
        raise ConfigError("a crosscoder is put into no model", got="`lm` and `other`", expected="no `lm`")


def _spliced(
    sae: Sae,
    hook_point: str,
    store: ActivationStore,
    held_out: np.ndarray,
    lm: LanguageModel,
    corpus: Corpus,
    max_tokens: int,
) -> tuple[SplicedLoss, bool]:
    """Measure what the SAE costs the model, on held-out documents where the text is the store's."""
    sae = sae if sae.W_dec.device == lm.device else deepcopy(sae).to(lm.device)
    name = check_hook_point(lm.model, hook_point, model_name=lm.name)
    documents = heldout_documents(store, held_out, corpus, lm, most=max_tokens)
    chosen = islice(corpus, MOST_DOCUMENTS) if documents is None else documents
    plan = plan_windows(chosen, lm.tokenizer, ctx_len=min(CTX_LEN, lm.max_positions), max_rows=max_tokens)
    target = sae.target_hook_point and check_hook_point(lm.model, sae.target_hook_point, model_name=lm.name)
    return spliced_loss(lm, sae, name, plan, target=target or name), documents is not None


def compare_saes(
    a: Sae | str | Path,
    b: Sae | str | Path,
    *,
    store: StoreSource | None = None,
    device: str = "cpu",
    config: CompareConfig | None = None,
    **settings: Any,
) -> SaeComparison:
    """Match the latents of two SAEs of one place, such as two seeds, by the cosine of their decoder rows.

    Args:
        a, b: The SAEs, or what `Sae.load` takes; the widths may differ. Cosines of different places mean nothing.
        store: Activations, to weight latents by how often they fire.
        device: Where what is loaded here lives.
        config: Settings together, instead of one by one.
        settings: Fields of `CompareConfig`: `threshold`, `max_hungarian`, `max_rows`, `seed`.

    Raises:
        ConfigError: A setting does not exist or is out of range.
        ShapeError: They read activations of different width.
        MemoryShortError: The assignment's table, 8 bytes a pair of latents, does not fit.
    """
    config = config_of(CompareConfig, config, settings, can_change=True)
    a, b = as_sae(a, device=device), as_sae(b, device=device)
    found = match_latents(a, b, threshold=config.threshold, seed=config.seed, max_hungarian=config.max_hungarian)
    if store is None:
        return found
    with opened_store(store) as opened:
        every = np.ones(opened.n_rows, dtype=bool)
        rates = [
            firing_rate(sae, opened, opened.hook_point(sae.hook_point), every, max_rows=config.max_rows).numpy()
            for sae in (a, b)
        ]
    return replace(found, rate_a=rates[0], rate_b=rates[1])


def compare_sides(
    sae: Sae | str | Path,
    *,
    before: StoreSource | None = None,
    after: StoreSource | None = None,
    device: str = "cpu",
    max_rows: int = default_of(CompareConfig, "max_rows"),
) -> SideComparison:
    """Tell which latents of a crosscoder both models have, and which only one, by the lengths of their decoder rows.

    Args:
        sae: The crosscoder, or what `Sae.load` takes.
        before, after: The stores that it was trained on, or others of the same text: latents that never fire are left
            out. Without, they are counted, most of them as shared, which is how they began.
        device: Where what is loaded here lives.
        max_rows: Most rows on which firings are counted.

    Raises:
        ConfigError: It is no crosscoder, one of the stores is missing, or they have other rows.
        ShapeError: It reads activations of another width.
    """
    sae = as_sae(sae, device=device)
    if before is None or after is None:
        if before is not after:
            raise ConfigError("firings are counted on two stores", got="one", expected="before and after, or neither")
        return side_comparison(sae)
    _check_sides(sae, after, is_spliced=False)
    with opened_pair(before, after) as opened:
        name, every = opened.hook_point(sae.hook_point), np.ones(opened.n_rows, dtype=bool)
        return side_comparison(sae, firing_rate(sae, opened, name, every, max_rows=max_rows).numpy())
