"""Which latents are explained, and the texts by which explanations are tested: drawn, read and encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int

from features.browsing.browser import LatentBrowser
from features.browsing.explanations import Quiz, make_quiz
from features.browsing.records import Example
from sae_train.activations.store import ActivationStore
from sae_train.rng import rng
from sae_train.saes.base import Sae

POOL = 200  # pieces of text drawn at random: those in which a latent is silent test its explanation
POOL_AT_A_TIME = 20


def drawn_latents(browser: LatentBrowser, n: int) -> list[int]:
    """Draw latents that fire, each with the same chance, in ascending order."""
    alive = np.flatnonzero(~browser.is_dead())
    return sorted(rng("explanations.latents", browser.config.seed).permutation(alive)[:n].tolist())


def quizzes_of(browser: LatentBrowser, sae: Sae, store: ActivationStore, latents: Sequence[int]) -> Mapping[int, Quiz]:
    """Make the test of every given latent's explanation, by latent."""
    if not latents:
        return {}
    config, passages = browser.config, browser.passages
    rows = rng("explanations.texts", config.seed).permutation(passages.rows())[:POOL]
    begin, end = passages.window(rows, config.n_before, config.n_after)
    fires = _fires(sae, store, browser.hook_point, (begin, end), np.asarray(latents))
    words = {**browser.words(), **_words(browser, begin, end)}
    pool = [
        Example(
            int(passages.doc_id[row]),
            int(passages.position[row]),
            int(row - a),
            passages.token_id[a:b].tolist(),
            [0.0] * int(b - a),
        )
        for row, a, b in zip(rows, begin, end, strict=True)
    ]
    found = {}
    for place, latent in enumerate(latents):
        quiet = [e for e, loud in zip(pool, fires[:, place], strict=True) if not loud]
        found[latent] = make_quiz(browser.record(latent), words, quiet, seed=config.seed)
    return found


@torch.no_grad()
def _fires(
    sae: Sae,
    store: ActivationStore,
    hook_point: str,
    windows: tuple[Int[np.ndarray, " window"], Int[np.ndarray, " window"]],
    latents: Int[np.ndarray, " latent"],
) -> np.ndarray:
    """Tell which latents fire anywhere in which windows, (window, latent) bool."""
    found = []
    rows = store[hook_point]
    pairs = list(zip(*(w.tolist() for w in windows), strict=True))
    for start in range(0, len(pairs), POOL_AT_A_TIME):
        some = pairs[start : start + POOL_AT_A_TIME]
        acts = torch.from_numpy(rows[np.concatenate([np.arange(a, b) for a, b in some])])
        values = sae.encode(acts.to(sae.W_dec.device))[:, torch.from_numpy(latents)] > 0
        found += [part.any(dim=0).cpu().numpy() for part in values.split([b - a for a, b in some])]
    return np.stack(found)


def _words(browser: LatentBrowser, begin: Int[np.ndarray, " w"], end: Int[np.ndarray, " w"]) -> dict[int, str]:
    """Return the text of the tokens in windows."""
    ids = np.unique(np.concatenate([browser.passages.token_id[a:b] for a, b in zip(begin, end, strict=True)]))
    return browser.texts_of(ids.tolist())
