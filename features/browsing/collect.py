"""One pass over a store: of every latent the strongest firings, a uniform sample of them, counts and companions.

Batches are whole passages, so that what surrounds a firing is at hand when it is found: nothing is encoded twice.
Memory is bounded: `BATCH_BYTES` of latents at a time, and of each latent `n_top + n_sampled` windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from features.browsing.best import BestPerLatent, rank_in_group
from features.browsing.cofiring import CofiringSample, Together
from features.browsing.passages import PASSAGE_TOKENS, PassageBatch, Passages
from features.browsing.strength import StrengthCounts
from features.config import BrowseConfig
from sae_train.activations.store import ActivationStore
from sae_train.rng import rng
from sae_train.run.progress import Advance, Progress, no_advance
from sae_train.saes.base import Sae

BATCH_BYTES = 64 * 2**20  # of latents of one batch


@dataclass(frozen=True)
class Collected:
    """What a pass found.

    Attributes:
        top: The strongest firings, one per passage.
        sampled: Firings drawn with equal chances.
        strength: Histogram, number and sum of the activations.
        together: Latents that fire on the same rows.
    """

    top: BestPerLatent
    sampled: BestPerLatent
    strength: StrengthCounts
    together: Together


class LatentCollector:
    """Takes the latents of batches of whole passages.

    Args:
        n_latents: Number of latents.
        rows: All rows that will come, ascending.
        config: How much is kept.
    """

    def __init__(self, n_latents: int, rows: Int[np.ndarray, " row"], config: BrowseConfig) -> None:
        self.config, width = config, config.n_before + 1 + config.n_after
        self.top = BestPerLatent(n_latents, config.n_top, width)
        self.sampled = BestPerLatent(n_latents, config.n_sampled, width)
        self.strength = StrengthCounts(n_latents)
        self.cofiring = CofiringSample(rows, n_rows=config.cofiring_rows, seed=config.seed)

    def update(self, latents: Float[Tensor, "token d_sae"], batch: PassageBatch) -> None:
        """Add the latents of a batch."""
        place, latent = (found.cpu().numpy() for found in (latents > 0).nonzero(as_tuple=True))
        value = latents[place, latent].float().cpu().numpy()
        row = batch.row[place]
        self.strength.update(latent, value)
        self.cofiring.update(latent, row)
        key = rng("browsing.firings", self.config.seed, int(batch.row[0])).random(len(value), dtype=np.float32)
        strong = np.flatnonzero(self.top.may_enter(latent, value))
        strong = strong[_is_peak(latent[strong], batch.passage[place[strong]], value[strong])]
        drawn = np.flatnonzero(self.sampled.may_enter(latent, key))
        for best, by, chosen in ((self.top, value, strong), (self.sampled, key, drawn)):
            cut = partial(self._windows, latents, batch.passage, place[chosen], latent[chosen])
            best.update(latent[chosen], by[chosen], row[chosen], cut)

    def _windows(
        self,
        latents: Float[Tensor, "token d_sae"],
        passage: Int[np.ndarray, " token"],
        place: Int[np.ndarray, " m"],
        latent: Int[np.ndarray, " m"],
        chosen: Int[np.ndarray, " chosen"],
    ) -> Float[np.ndarray, "chosen width"]:
        """Return a latent at the tokens around some of its firings, zero outside their passages."""
        offsets = np.arange(-self.config.n_before, self.config.n_after + 1)
        centre = place[chosen, None]
        near = (centre + offsets).clip(0, len(passage) - 1)
        is_inside = (near == centre + offsets) & (passage[near] == passage[centre])
        found = latents[torch.from_numpy(near), torch.from_numpy(latent[chosen, None])]
        return np.where(is_inside, found.float().cpu().numpy(), np.float32(0))

    def result(self, advance: Advance = no_advance) -> Collected:
        """Return what was found; `advance` is called with latents whose companions are counted."""
        together = self.cofiring.result(len(self.strength.n_fired), self.config.n_neighbours, advance)
        return Collected(self.top, self.sampled, self.strength, together)


def _is_peak(
    latent: Int[np.ndarray, " m"], passage: Int[np.ndarray, " m"], value: Float[np.ndarray, " m"]
) -> Bool[np.ndarray, " m"]:
    """Tell which firings are the strongest, and of equal ones the first, of their latent in their passage."""
    order = np.lexsort((-value, passage, latent))
    found = np.zeros(len(value), dtype=bool)
    group = latent[order] * (int(passage.max(initial=0)) + 1) + passage[order]
    found[order[rank_in_group(group) == 0]] = True
    return found


@torch.no_grad()
def collect(
    sae: Sae, store: ActivationStore, hook_point: str, passages: Passages, config: BrowseConfig, progress: Progress
) -> Collected:
    """Encode the passages of a store once, batch by batch, and keep what a browser shows."""
    found = LatentCollector(sae.d_sae, passages.rows(), config)
    n_rows = max(PASSAGE_TOKENS, BATCH_BYTES // (4 * sae.d_sae))
    with progress("reading latents", passages.n_tokens, unit="tokens") as advance:
        for batch in passages.batches(store, hook_point, n_rows):
            found.update(sae.encode(batch.acts.to(sae.W_dec.device)), batch)
            advance(len(batch.row))
    with progress("latents that fire together", sae.d_sae, unit="latents") as advance:
        return found.result(advance)
