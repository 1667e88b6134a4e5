"""Confidence intervals over entities: mean and ratio of means (percentile bootstrap), share (Wilson)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from sae_train.intervals import NO_INTERVAL, Interval
from sae_train.quality.bootstrap import central_range
from sae_train.rng import rng

N_BOOTSTRAP = 1000


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
    low, high = central_range(draws)
    slack = min(1.0, 3 / len(x))
    return Interval(float(x.mean()), min(low, 1 - slack), max(high, slack))


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
    draws = (top / np.maximum(bottom, 1e-12))[bottom >= least]
    return Interval(float(part.mean() / whole.mean()), *central_range(draws))


def wilson(n_hits: Float[np.ndarray, ...] | float, n_trials: int, *, level: float = 0.95) -> Float[np.ndarray, "2 ..."]:
    """Return Wilson's interval of a share, low and high; of no trials, all there is.

        (p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2/n)

    Hits need not be whole numbers: trials that count as between 0 and 1 each make it conservative.

    Example:
        >>> wilson(np.array([0.0, 5.0]), 10).round(3).tolist(), wilson(0.0, 0).tolist()
        ([[0.0, 0.237], [0.278, 0.763]], [0.0, 1.0])
    """
    if n_trials == 0:
        return np.stack([np.zeros_like(n_hits, dtype=float), np.ones_like(n_hits, dtype=float)])
    z, p = stats.norm.isf((1 - level) / 2), n_hits / n_trials
    middle = p + z**2 / (2 * n_trials)
    half = z * np.sqrt(p * (1 - p) / n_trials + (z / (2 * n_trials)) ** 2)
    return np.clip(np.stack([middle - half, middle + half]) / (1 + z**2 / n_trials), 0.0, 1.0)
