"""Two-sample test: do two groups of points come from one distribution? Energy distance with a permutation p."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.spatial.distance import pdist, squareform


@dataclass(frozen=True)
class TwoSample:
    """Energy distance of two groups, and how often a random relabelling reaches it."""

    distance: float
    p: float


def energy_test(
    points: Float[np.ndarray, "n width"],
    is_first: Bool[np.ndarray, " n"],
    strata: Shaped[np.ndarray, " n"],
    *,
    permutations: int = 999,
    seed: int = 0,
) -> TwoSample:
    """Compare two groups of points; labels are permuted within strata (entity types) only.

    E = 2 mean ||x - y|| - mean ||x - x'|| - mean ||y - y'||, over all pairs; p = (1 + #{E_perm >= E}) / (1 + draws).
    Source: Szekely & Rizzo 2013.

    Args:
        points: One per entity, so that rows of one entity are not taken for several.
        is_first: Which points are the first group's.
        strata: Points are exchangeable only where these agree.
        permutations: Random relabellings.
        seed: Draws them.
    """
    distances = squareform(pdist(points))
    generator = np.random.default_rng([0xE5, seed])
    labels = np.repeat(is_first[None].astype(float), permutations + 1, axis=0)
    for stratum in np.unique(strata):
        columns = np.flatnonzero(strata == stratum)
        labels[1:, columns] = generator.permuted(labels[1:, columns], axis=1)
    values = _energies(distances, labels)
    reached = int((values[1:] >= values[0] - 1e-12 * abs(values[0])).sum())
    return TwoSample(float(values[0]), (1 + reached) / (1 + permutations))


def _energies(distances: Float[np.ndarray, "n n"], first: Float[np.ndarray, "draws n"]) -> Float[np.ndarray, " draws"]:
    """Return the energy distance under every labelling."""
    second = 1.0 - first
    n, m = first.sum(1), second.sum(1)
    to_first, to_second = first @ distances, second @ distances
    between = (to_first * second).sum(1) / (n * m)
    within = (to_first * first).sum(1) / n**2 + (to_second * second).sum(1) / m**2
    return 2 * between - within
