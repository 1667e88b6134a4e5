"""How strongly latents fire: a histogram of activations for each, in logarithmic bins that are the same for all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

BINS_PER_OCTAVE = 4
OCTAVES = 16  # above and below 1: what lies outside counts to the outermost bins
EDGES: np.ndarray = 2.0 ** (np.arange(-OCTAVES * BINS_PER_OCTAVE, OCTAVES * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE)
N_BINS = len(EDGES) - 1


class StrengthCounts:
    """Counts firings by latent and strength, over a stream.

    Args:
        n_latents: Number of latents.

    Attributes:
        histogram: Firings between two neighbours of `EDGES`, (n_latents, N_BINS).
        n_fired: Firings, (n_latents,).
        total: Sum of activations, (n_latents,).
    """

    def __init__(self, n_latents: int) -> None:
        self.histogram = np.zeros((n_latents, N_BINS), dtype=np.int64)
        self.n_fired = np.zeros(n_latents, dtype=np.int64)
        self.total = np.zeros(n_latents)

    def update(self, latent: Int[np.ndarray, " m"], value: Float[np.ndarray, " m"]) -> None:
        """Add firings; values are above zero."""
        n_latents = len(self.n_fired)
        self.n_fired += np.bincount(latent, minlength=n_latents)
        self.total += np.bincount(latent, weights=value, minlength=n_latents)
        at = np.searchsorted(EDGES, value, side="right") - 1
        np.add.at(self.histogram.reshape(-1), latent.astype(np.int64) * N_BINS + at.clip(0, N_BINS - 1), 1)
