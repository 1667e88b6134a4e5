"""Permutation null of the best MaxMin separation: labels are shuffled within each type.

Every shuffle keeps the number of known and unknown entities of each type. For a type with n known and m unknown ones,
firing shares S (entities x latents), and Z the 0/1 matrix of shuffles x entities that are "known" in it,

    s = Z S / n - (1 - Z) S / m = (1/n + 1/m) Z S - (1 S) / m

MaxMin of a latent is the minimum of s over types, the null its maximum over latents: whatever reaches the null's 95 %
would be the best of so many latents in one shuffle of twenty (Westfall & Young 1993: family-wise, dependence kept).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_array, csr_array

from sae_train.rng import rng

BLOCK_BYTES = 32 * 2**20  # of dense shuffles x latents at a time


def shuffled_labels(
    is_known: Bool[np.ndarray, " n"], kind: Int[np.ndarray, " n"], n_shuffles: int, seed: int
) -> Bool[np.ndarray, "n_shuffles n"]:
    """Return labels shuffled inside each type; the same for every SAE that reads the same entities."""
    generator = rng("permutation.labels", seed)
    found = np.empty((n_shuffles, len(is_known)), dtype=bool)
    for t in np.unique(kind):
        rows = np.flatnonzero(kind == t)
        found[:, rows] = generator.permuted(np.tile(is_known[rows], (n_shuffles, 1)), axis=1)
    return found


def maxmin_null(
    frac_firing: csr_array,
    labels: Bool[np.ndarray, "n_shuffles n"],
    kind: Int[np.ndarray, " n"],
    allowed: Bool[np.ndarray, " d_sae"],
) -> Float[np.ndarray, "2 n_shuffles"]:
    """Return the largest MaxMin separation over the allowed latents in every shuffle, known and unknown.

    Args:
        frac_firing: Firing shares of the entities, sparse.
        labels: Which entities are called known in each shuffle.
        kind: Index of each entity's type. Types with one label only say nothing and are left out.
        allowed: Latents that may be selected at all.
    """
    columns = csc_array(frac_firing)
    fires = np.diff(columns.indptr) > 0
    best = np.full((2, len(labels)), 0.0 if (allowed & ~fires).any() else -1.0)  # a silent latent separates by 0
    use = np.flatnonzero(allowed & fires)
    groups = [np.flatnonzero(kind == t) for t in np.unique(kind)]
    groups = [rows for rows in groups if 0 < labels[0, rows].sum() < len(rows)]
    step = max(1, BLOCK_BYTES // (8 * len(labels)))
    for start in range(0, len(use) if groups else 0, step):
        block = csr_array(columns[:, use[start : start + step]])
        low, high = np.inf, -np.inf
        for rows in groups:
            part, called = block[rows], labels[:, rows].T.astype(np.float64)
            n = float(called[:, 0].sum())
            m = len(rows) - n
            total = np.asarray(part.sum(axis=0)).ravel()
            gap = (1 / n + 1 / m) * (part.T @ called) - (total / m)[:, None]  # (latents, shuffles)
            low, high = np.minimum(low, gap), np.maximum(high, gap)
        best[0] = np.maximum(best[0], np.max(low, axis=0))
        best[1] = np.maximum(best[1], np.max(-high, axis=0))
    return best


def family_p(observed: Float[np.ndarray, " d_sae"], null: Float[np.ndarray, " n_shuffles"]) -> np.ndarray:
    """Return (1 + number of shuffles whose largest statistic reaches the observed one) / (1 + shuffles).

    Example:
        >>> family_p(np.array([0.5, 0.1]), np.array([0.1, 0.2, 0.3])).tolist()
        [0.25, 1.0]
    """
    below = np.searchsorted(np.sort(null), observed, side="left")
    return (1 + len(null) - below) / (1 + len(null))
