"""Intervals over entities: of a mean, and of a share of one loss in another. Percentile bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from features.probe import Interval
from sae_train.rng import rng

N_BOOTSTRAP = 1000
NO_INTERVAL = Interval(float("nan"), float("nan"), float("nan"))


def mean_interval(values: Sequence[float] | np.ndarray, seed: int) -> Interval:
    """Return the mean with a 95 % percentile bootstrap interval over the values given, one per unit (an entity).

    Near 0 and 1 the bootstrap would claim certainty; the rule of three widens it: n values never exclude a share
    of 3 / n, nor one of 1 - 3 / n (95 %). That holds for every mean: a little leakage never looks surer than none.
    """
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        return NO_INTERVAL
    generator = rng("intervals.mean", seed)
    draws = x[generator.integers(0, len(x), (N_BOOTSTRAP, len(x)))].mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    slack = min(1.0, 3 / len(x))
    return Interval(float(x.mean()), min(float(low), 1 - slack), max(float(high), slack))


def ratio_interval(
    part: Float[np.ndarray, " n"], whole: Float[np.ndarray, " n"], seed: int, *, least: float = 0.05
) -> Interval:
    """Return mean(part) / mean(whole) with a 95 % percentile bootstrap interval; entities are drawn, both at once.

    NaN where mean(whole) is below `least`: a share of nothing says nothing. Draws below it are left out.

    Example:
        >>> ratio_interval(np.array([0.5, 0.5]), np.array([1.0, 1.0]), 0).value
        0.5
    """
    if len(whole) == 0 or whole.mean() < least:
        return NO_INTERVAL
    generator = rng("intervals.ratio", seed)
    rows = generator.integers(0, len(whole), (N_BOOTSTRAP, len(whole)))
    top, bottom = part[rows].mean(1), whole[rows].mean(1)
    low, high = np.percentile((top / np.maximum(bottom, 1e-12))[bottom >= least], [2.5, 97.5])
    return Interval(float(part.mean() / whole.mean()), float(low), float(high))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of n names; shares in between 0 and 1 per name make it conservative.

    Example:
        >>> [round(v, 3) for v in wilson(0.5, 10)], wilson(0.0, 0)
        ([0.237, 0.763], (0.0, 1.0))
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, middle - half), min(1.0, middle + half)
