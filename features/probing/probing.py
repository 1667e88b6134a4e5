"""The station that probes an SAE with the datasets of *sae-probes*: k latents against the activations they come from.

The setting is the package's `normal`: 1,024 texts to train on, both classes equally often, the last token of each read.
The k latents are those whose mean differs most between the classes, in units of their mean where they are on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from features.config import ProbingConfig
from features.probing import sae_probes
from features.probing.figures import DatasetProbes, ProbeFigures, ProbingReport
from features.stats.intervals import wilson
from features.stats.probe import auroc_interval
from sae_train.errors import ConfigError, ShapeError
from sae_train.fields import config_of
from sae_train.intervals import Interval
from sae_train.lm.hooks import check_hook_point
from sae_train.lm.models import LanguageModel, as_lm
from sae_train.lm.token_acts import acts_at
from sae_train.run.progress import Advance, Progress, shown
from sae_train.saes.base import Sae, as_sae
from sae_train.text.tokens import bos_prefix, encode_plain

ROWS = 1024  # encoded together; of the test texts only the chosen latents are kept
DENSE_PENALTY = "l2"  # of the probe of activations, as in the package's baseline `logreg`


def probe_sae(
    sae: Sae | str | Path,
    lm: LanguageModel | str | Path,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    config: ProbingConfig | None = None,
    **settings: Any,
) -> ProbingReport:
    """Measure what few latents say about labelled texts, against a probe of all activations (k-sparse probing).

    Source: Kantamneni et al. 2025 (arXiv:2502.16681), with the datasets and probes of their package sae-probes.

    Args:
        sae: The SAE, or what `Sae.load` takes; of a transcoder what it reads.
        lm: The language model, or what `load_lm` takes.
        device: Where what is loaded here lives.
        progress: Shows how far it is; by default whatever there is: terminal, notebook, log.
        config: Settings together, instead of one by one.
        settings: Fields of `ProbingConfig`.

    Raises:
        ConfigError: A setting does not exist or is out of range, sae-probes is not installed or has no such dataset,
            the SAE is a crosscoder or has fewer latents than a probe is to read.
        HookPointError: The model has no such hook point.
        ShapeError: The SAE reads activations of another width.
    """
    chosen = config_of(ProbingConfig, config, settings, can_change=True)
    names = sae_probes.chosen_datasets(chosen.probes)
    sae, lm = as_sae(sae, device=device), as_lm(lm, device=device)
    if len(sae.sides) > 1:
        raise ConfigError("a crosscoder reads two models", got=sae.name, field="sae", expected="an SAE of one model")
    if max(chosen.probe_ks) > sae.d_sae:
        raise ConfigError(
            "more latents than there are", got=max(chosen.probe_ks), field="probe_ks", expected=f"<= {sae.d_sae}"
        )
    hook_point = check_hook_point(lm.model, sae.hook_point, model_name=lm.name)
    found: dict[str, DatasetProbes] = {}
    for name in names:
        drawn = sae_probes.drawn_texts(name, max_test=chosen.probe_test_texts, seed=chosen.probe_seed)
        n_train = len(drawn.train)
        with (progress or shown)(f"probes of {name}", n_train + len(drawn.test), unit="texts") as advance:
            acts = last_token_acts(lm, [*drawn.train, *drawn.test], hook_point, advance)
        if acts.shape[1] != sae.d_in:
            raise ShapeError("the SAE does not fit the model", got=f"d_in {sae.d_in}", expected=f"{acts.shape[1]}")
        found[name] = probe_dataset(sae, acts[:n_train], acts[n_train:], drawn.train_labels, drawn.test_labels, chosen)
    return ProbingReport(hook_point, found)


def last_token_acts(lm: LanguageModel, texts: list[str], hook_point: str, advance: Advance) -> Float[Tensor, "n d_in"]:
    """Return the activations at the last token of each text, of a long one read without its beginning."""
    front = bos_prefix(lm.tokenizer)
    most = min(sae_probes.MOST_TOKENS, lm.max_positions) - len(front)
    prompts = [front + ids[-most:] for ids in encode_plain(lm.tokenizer, texts)[0]]
    lm.check_tokens(prompts)
    rows = acts_at(lm, prompts, [[len(ids) - 1] for ids in prompts], [hook_point], batch_size=32, advance=advance)
    return torch.cat(rows[hook_point])


def probe_dataset(
    sae: Sae,
    train: Float[Tensor, "n_train d_in"],
    test: Float[Tensor, "n_test d_in"],
    train_labels: Bool[np.ndarray, " n_train"],
    test_labels: Bool[np.ndarray, " n_test"],
    config: ProbingConfig,
) -> DatasetProbes:
    """Probe one dataset's activations: all of them, and k latents for each k.

    Memory: 4 bytes for each latent of each training text, several times over.
    """
    ranked = sae_probes.ranked_latents(torch.cat(list(_encoded(sae, train))), train_labels)[: max(config.probe_ks)]
    few_train, few_test = (torch.cat([own[:, ranked] for own in _encoded(sae, x)]).numpy() for x in (train, test))

    def figures(x: np.ndarray, y: np.ndarray, penalty: str, latents: Int[Tensor, " k"] | None = None) -> ProbeFigures:
        own = sae_probes.probe(x, train_labels, y, test_labels, penalty=penalty, seed=config.probe_seed)
        ends = auroc_interval(own.scores, test_labels, np.arange(len(y)), seed=config.probe_seed)
        low, high = wilson(own.accuracy * len(y), len(y)).tolist()
        return ProbeFigures(
            auroc=Interval(own.auroc, ends.low, ends.high),
            accuracy=Interval(own.accuracy, low, high),
            latents=() if latents is None else tuple(latents.tolist()),
        )

    return DatasetProbes(
        n_train=len(train),
        n_test=len(test),
        dense=figures(train.numpy(), test.numpy(), DENSE_PENALTY),
        sparse={
            k: figures(few_train[:, :k], few_test[:, :k], config.probe_penalty, ranked[:k]) for k in config.probe_ks
        },
    )


def _encoded(sae: Sae, acts: Float[Tensor, "n d_in"]) -> Iterator[Float[Tensor, "rows d_sae"]]:
    """Yield the latents of some rows at a time, float32 on the CPU."""
    device, dtype = sae.W_enc.device, sae.W_enc.dtype
    for rows in acts.split(ROWS):
        with torch.no_grad():
            found = sae.encode(rows.to(device, dtype))
        yield found.float().cpu()
