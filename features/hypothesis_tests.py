"""Tests on all latents at once: exact 2x2 test, rank AUROC with p-value, Benjamini-Hochberg. Statistics from scipy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats


def fisher_p(
    fires_known: Bool[np.ndarray, "n_known d_sae"], fires_unknown: Bool[np.ndarray, "n_unknown d_sae"]
) -> Float[np.ndarray, " d_sae"]:
    """Return p of the exact 2x2 test (fires x known) for every latent; two-sided by doubling the smaller tail.

    Example:
        >>> k, u = np.ones((5, 1), bool), np.zeros((5, 1), bool)
        >>> round(float(fisher_p(k, u)[0]), 6) == round(2 / 252, 6)
        True
    """
    a, b = fires_known.sum(0), fires_unknown.sum(0)
    n_known, n_total = len(fires_known), len(fires_known) + len(fires_unknown)
    draws = stats.hypergeom(n_total, a + b, n_known)
    tail = np.minimum(draws.cdf(a), draws.sf(a - 1))
    return np.minimum(1.0, 2 * tail)


def rank_test(
    known: Float[np.ndarray, "n_known d_sae"], unknown: Float[np.ndarray, "n_unknown d_sae"]
) -> tuple[Float[np.ndarray, " d_sae"], Float[np.ndarray, " d_sae"]]:
    """Return AUROC = P(known value above unknown value), ties half, and the two-sided Mann-Whitney p, per latent.

    A latent that has the same value everywhere gets AUROC 0.5 and p 1.
    """
    result = stats.mannwhitneyu(known, unknown, axis=0, method="asymptotic")
    constant = (np.ptp(np.concatenate([known, unknown]), axis=0) == 0) | ~np.isfinite(result.pvalue)
    auroc = result.statistic / (len(known) * len(unknown))
    return np.where(constant, 0.5, auroc), np.where(constant, 1.0, result.pvalue)


def q_values(p: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Return Benjamini-Hochberg adjusted p-values over everything that was tested, shape kept."""
    return stats.false_discovery_control(p.ravel()).reshape(p.shape)
