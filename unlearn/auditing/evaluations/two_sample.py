"""Two-sample test: do two groups of points have the same distribution? Energy distance, permutation p-value.

    E = 2 mean ||x - y|| - mean ||x - x'|| - mean ||y - y'||, over all pairs; p = (1 + #{E_perm >= E}) / (1 + draws)

Source: Szekely & Rizzo 2013. Several tests on the same entities (one per place in a model) are joined by their largest
statistic, each in standard deviations of its own relabellings, compared with the largest under the same relabellings
(Westfall & Young 1993, max T): how many tests there are and how alike they are costs little then, where the smallest p
times their number could not be small at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.spatial.distance import pdist, squareform

from sae_train.rng import rng


@dataclass(frozen=True)
class TwoSample:
    """Energy distance of two groups, and how often a random relabelling reaches it."""

    distance: float
    p: float


def energy_test(
    points: Float[np.ndarray, "n width"],
    is_first: Bool[np.ndarray, " n"],
    strata: Shaped[np.ndarray, " n"],
    **drawn: int,
) -> TwoSample:
    """Compare two groups of points; arguments as in `energies`."""
    values = energies(points, is_first, strata, **drawn)
    return TwoSample(float(values[0]), frac_that_reaches(values))


def energies(
    points: Float[np.ndarray, "n width"],
    is_first: Bool[np.ndarray, " n"],
    strata: Shaped[np.ndarray, " n"],
    *,
    permutations: int = 999,
    seed: int = 0,
) -> Float[np.ndarray, " draws"]:
    """Return the energy distance as labelled, then under every relabelling within strata (entity types).

    Args:
        points: One per entity, so that rows of one entity are not taken for several.
        is_first: Which points are the first group's.
        strata: Points are exchangeable only where these agree.
        permutations: Random relabellings.
        seed: Draws them: the same ones for other points of the same entities.
    """
    return energy_distances(squareform(pdist(points)), relabelled(is_first, strata, permutations, seed))


def relabelled(
    is_first: Bool[np.ndarray, " n"], strata: Shaped[np.ndarray, " n"], permutations: int, seed: int
) -> Float[np.ndarray, "draws n"]:
    """Return the labels, 1 for the first group, as they are and then under every relabelling within strata."""
    generator = rng("two_sample.permutations", seed)
    labels = np.repeat(is_first[None].astype(float), permutations + 1, axis=0)
    for stratum in np.unique(strata):
        columns = np.flatnonzero(strata == stratum)
        labels[1:, columns] = generator.permuted(labels[1:, columns], axis=1)
    return labels


def frac_that_reaches(values: Float[np.ndarray, " draws"]) -> float:
    """Return the share of all values that are as large as the first, itself included: its p.

    Example:
        >>> frac_that_reaches(np.array([2.0, 1.0, 2.0, 3.0]))
        0.75
    """
    return float((values >= values[0] - 1e-12 * abs(values[0])).mean())


def joint_p(tests: Sequence[Float[np.ndarray, " draws"]]) -> float:
    """Return the p of several tests together, given what `energies` returns for each under the same relabellings.

    Example:
        >>> joint_p([np.array([9.0, 1.0, 2.0, 0.0]), np.array([0.0, 3.0, 2.0, 1.0])])
        0.25
    """
    return frac_that_reaches(in_deviations(np.stack(tests)).max(axis=0))


def in_deviations(values: Float[np.ndarray, "tests draws"]) -> Float[np.ndarray, "tests draws"]:
    """Return every statistic in standard deviations of its own relabellings, their mean 0."""
    deviation = np.maximum(values.std(axis=1, keepdims=True), 1e-12)  # no relabelling changes anything: no statistic
    return (values - values.mean(axis=1, keepdims=True)) / deviation


def energy_distances(
    distances: Float[np.ndarray, "n n"], first: Float[np.ndarray, "draws n"]
) -> Float[np.ndarray, " draws"]:
    """Return the energy distance under every labelling, given the distances of all pairs."""
    second = 1.0 - first
    n, m = first.sum(1), second.sum(1)
    to_first, to_second = first @ distances, second @ distances
    between = (to_first * second).sum(1) / (n * m)
    within = (to_first * first).sum(1) / n**2 + (to_second * second).sum(1) / m**2
    return 2 * between - within
