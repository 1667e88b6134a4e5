"""The best entries of every latent over a stream, merged batch by batch, with what surrounds each of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

MERGED_LATENTS = 4096  # at a time: bounds the memory of a merge


class BestPerLatent:
    """For every latent the `n` entries with the largest keys of all that were ever offered.

    Whether the key is the activation (the strongest examples) or a random number (a uniform sample of the firings,
    without replacement), the merge is the same. Of equal keys the one that came first stays.

    Args:
        n_latents: Number of latents.
        n: Most entries of each.
        width: Tokens of the window around an entry.

    Attributes:
        key: Keys, largest first, -inf where there is no entry, (n_latents, n).
        row: Row of the store of each entry, -1 where there is none, (n_latents, n).
        window: The latent at the tokens around it, zero outside its passage, (n_latents, n, width).
    """

    def __init__(self, n_latents: int, n: int, width: int) -> None:
        self.n = n
        self.key = np.full((n_latents, n), -np.inf, dtype=np.float32)
        self.row = np.full((n_latents, n), -1, dtype=np.int64)
        self.window = np.zeros((n_latents, n, width), dtype=np.float32)

    def may_enter(self, latent: Int[np.ndarray, " m"], key: Float[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
        """Tell which entries beat the last one that their latent has."""
        return key > self.key[latent, -1] if self.n else np.zeros(len(key), dtype=bool)

    def update(
        self,
        latent: Int[np.ndarray, " m"],
        key: Float[np.ndarray, " m"],
        row: Int[np.ndarray, " m"],
        windows: Callable[[Int[np.ndarray, " chosen"]], Float[np.ndarray, "chosen width"]],
    ) -> None:
        """Offer entries.

        Args:
            latent, key, row: Of each entry.
            windows: Returns what surrounds some of them, by number; asked only for those that may enter.
        """
        order = np.lexsort((row, -key, latent))
        rank = rank_in_group(latent[order])
        order = order[(rank < self.n) & self.may_enter(latent[order], key[order])]
        ids, place = np.unique(latent[order], return_inverse=True)
        rank = rank_in_group(latent[order])
        for start in range(0, len(ids), MERGED_LATENTS):
            here = slice(*np.searchsorted(place, [start, start + MERGED_LATENTS]))
            chosen = order[here]
            self._merge(
                ids[start : start + MERGED_LATENTS],
                (place[here] - start, rank[here]),
                key[chosen],
                row[chosen],
                windows(chosen),
            )

    def _merge(
        self,
        ids: Int[np.ndarray, " latent"],
        at: tuple[np.ndarray, np.ndarray],
        key: Float[np.ndarray, " m"],
        row: Int[np.ndarray, " m"],
        window: Float[np.ndarray, "m width"],
    ) -> None:
        """Put new entries beside those of some latents and keep the best."""
        width = int(at[1].max()) + 1
        offered = np.full((len(ids), width), -np.inf, dtype=np.float32)
        number = np.zeros((len(ids), width), dtype=np.int64)
        offered[at], number[at] = key, np.arange(len(key))
        both = np.concatenate([self.key[ids], offered], axis=1)
        best = np.argsort(-both, axis=1, kind="stable")[:, : self.n]
        self.key[ids] = np.take_along_axis(both, best, axis=1)
        is_new = best >= self.n
        old, new = np.where(is_new, 0, best), np.where(is_new, best - self.n, 0)
        source = np.take_along_axis(number, new, axis=1)
        self.row[ids] = np.where(is_new, row[source], np.take_along_axis(self.row[ids], old, axis=1))
        kept = np.take_along_axis(self.window[ids], old[:, :, None], axis=1)
        kept[is_new] = window[source[is_new]]
        self.window[ids] = kept
        self.row[ids] = np.where(np.isneginf(self.key[ids]), -1, self.row[ids])


def rank_in_group(group: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Return the place of each entry among those of its group, which lie together.

    Example:
        >>> rank_in_group(np.array([3, 3, 3, 5, 8, 8])).tolist()
        [0, 1, 2, 0, 0, 1]
    """
    first = np.r_[True, group[1:] != group[:-1]] if len(group) else np.zeros(0, dtype=bool)
    place = np.arange(len(group))
    return place - np.maximum.accumulate(np.where(first, place, 0)) if len(group) else place
