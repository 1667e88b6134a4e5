"""Which latents fire together: counted on a bounded sample of rows.

    jaccard_ij = n_ij / (n_i + n_j - n_ij)

n_i the sampled rows on which latent i fires, n_ij those on which both do: 1 if they always come together, and small for
a latent that fires everywhere, whatever it meets. Pairs that met fewer than `MIN_TOGETHER` times say nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from sae_train.rng import rng
from sae_train.run.progress import Advance, no_advance

MIN_TOGETHER = 3
MAX_PAIRS = 200_000_000  # of firings on one row, in all rows together: about four seconds on one core
BLOCK_BYTES = 64 * 2**20  # of counts at a time


class Together(NamedTuple):
    """For every latent those that fire with it, best first.

    Attributes:
        latent: Their numbers, -1 where there are no more, (n_latents, n).
        jaccard: Share of the rows with either on which both fire, (n_latents, n).
        n_rows: Rows on which it was counted.
    """

    latent: Int[np.ndarray, "n_latents n"]
    jaccard: Float[np.ndarray, "n_latents n"]
    n_rows: int


class CofiringSample:
    """Keeps which latents fire on some rows, drawn before the stream begins.

    Args:
        rows: Rows of the stream.
        n_rows: Most rows that are drawn.
        seed: Of the draw.
    """

    def __init__(self, rows: Int[np.ndarray, " row"], *, n_rows: int, seed: int) -> None:
        self.drawn = rng("browsing.rows", seed).permutation(rows)[:n_rows]
        self._place = np.full(int(rows.max()) + 1, -1, dtype=np.int32)
        self._place[self.drawn] = np.arange(len(self.drawn))
        self._rows: list[np.ndarray] = []
        self._latents: list[np.ndarray] = []

    def update(self, latent: Int[np.ndarray, " m"], row: Int[np.ndarray, " m"]) -> None:
        """Add firings: latents and the rows on which they fire."""
        place = self._place[row]
        self._rows.append(place[place >= 0])
        self._latents.append(latent[place >= 0].astype(np.int32))

    def result(self, n_latents: int, n: int, advance: Advance = no_advance) -> Together:
        """Return for every latent the `n` with the largest Jaccard index.

        Where latents are dense, fewer of the drawn rows are used, the first ones of the draw: `MAX_PAIRS` in all.

        Args:
            n_latents: Number of latents.
            n: Companions of each.
            advance: Called with the number of latents that are done.
        """
        row, latent = np.concatenate(self._rows), np.concatenate(self._latents)
        pairs = np.cumsum(np.bincount(row, minlength=len(self.drawn)).astype(np.int64) ** 2)
        n_rows = max(1, int(np.searchsorted(pairs, MAX_PAIRS, side="right")))
        used = row < n_rows
        ones = np.ones(int(used.sum()), dtype=np.int32)
        fires = csr_array((ones, (row[used], latent[used])), shape=(n_rows, n_latents)).tocsc()
        n_fired = np.asarray(fires.sum(axis=0)).reshape(-1)
        best = np.full((n_latents, n), -1, dtype=np.int64)
        value = np.zeros((n_latents, n), dtype=np.float32)
        step = max(1, BLOCK_BYTES // (12 * n_latents))
        for start in range(0, n_latents, step):
            part = slice(start, min(start + step, n_latents))
            both = (fires[:, part].T @ fires).toarray()
            both[np.arange(len(both)), np.arange(part.start, part.stop)] = 0
            jaccard = both / np.maximum(1, n_fired[part, None] + n_fired[None, :] - both).astype(np.float32)
            best[part], value[part] = _largest(np.where(both >= MIN_TOGETHER, jaccard, 0).astype(np.float32), n)
            advance(len(both))
        return Together(best, value, min(n_rows, len(self.drawn)))


def _largest(
    values: Float[np.ndarray, "row column"], n: int
) -> tuple[Int[np.ndarray, "row n"], Float[np.ndarray, "row n"]]:
    """Return the columns with the largest values above zero, -1 and 0 where there are fewer than `n`."""
    most = min(n, values.shape[1])
    at = np.argpartition(-values, most - 1, axis=1)[:, :most]
    found = np.take_along_axis(values, at, axis=1)
    order = np.lexsort((at, -found), axis=1)
    at, found = np.take_along_axis(at, order, axis=1), np.take_along_axis(found, order, axis=1)
    missing: Bool[np.ndarray, "row n"] = found <= 0
    out = np.full((len(values), n), -1, dtype=np.int64)
    out[:, :most] = np.where(missing, -1, at)
    best = np.zeros((len(values), n), dtype=np.float32)
    best[:, :most] = np.where(missing, 0, found)
    return out, best
