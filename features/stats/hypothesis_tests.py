"""Tests on all latents at once: exact 2x2 test, rank AUROC with p-value, Benjamini-Hochberg. Uses scipy.

Nothing loops over latents: zeros of a sparse matrix are one group of ties, counted and never stored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats
from scipy.sparse import csc_array, csr_array


class RankTest(NamedTuple):
    """One rank test per column.

    Attributes:
        auroc: P(value of a known entity above that of an unknown one), ties half.
        p_value: Two-sided, normal approximation with tie correction.
        variance: Of AUROC times pairs (Mann-Whitney's U) where labels mean nothing.
    """

    auroc: Float[np.ndarray, " d_sae"]
    p_value: Float[np.ndarray, " d_sae"]
    variance: Float[np.ndarray, " d_sae"]


def fisher_p(
    n_fire_known: Float[np.ndarray, " d_sae"],
    n_fire_unknown: Float[np.ndarray, " d_sae"],
    n_known: int,
    n_unknown: int,
) -> Float[np.ndarray, " d_sae"]:
    """Return p of the exact 2x2 test (fires x known) for every latent; two-sided by doubling the smaller tail.

    Args:
        n_fire_known, n_fire_unknown: Entities of either class at which the latent fires.
        n_known, n_unknown: Entities of either class.

    Example:
        >>> round(252 * float(fisher_p(np.array([5.0]), np.array([0.0]), 5, 5)[0]), 6)
        2.0
    """
    counts = np.stack([n_fire_known, n_fire_unknown]).astype(np.int64)
    tables, index = np.unique(counts, axis=1, return_inverse=True)  # many latents share a table
    a, b = tables
    draws = stats.hypergeom(n_known + n_unknown, a + b, n_known)
    return np.minimum(1.0, 2 * np.minimum(draws.cdf(a), draws.sf(a - 1)))[index.ravel()]


def rank_test(values: csr_array, is_known: Bool[np.ndarray, " n"]) -> RankTest:
    """Return the Mann-Whitney test of every column of a sparse matrix.

        U = R - n (n + 1) / 2,  AUROC = U / (n m),  z = (max(U, nm - U) - nm/2 - 1/2) / s
        s^2 = nm / 12 (N + 1 - sum(t^3 - t) / (N (N - 1))),  N = n + m

    R is the sum of the ranks of the n known entities, t the sizes of the groups of ties; the zeros are one of them.
    The same as `scipy.stats.mannwhitneyu(method="asymptotic")`, column by column. A column that is the same everywhere
    gets AUROC 0.5 and p 1.

    Args:
        values: (n_entities, d_sae), of either sign.
        is_known: The class of each row.
    """
    columns = csc_array(values, dtype=np.float64, copy=True)
    columns.eliminate_zeros()
    n_rows, n_columns = len(is_known), len(columns.indptr) - 1
    n_known = int(is_known.sum())
    n_pairs = n_known * (n_rows - n_known)
    stored = np.diff(columns.indptr)
    column = np.repeat(np.arange(n_columns), stored)
    order = np.lexsort((columns.data, column))
    x, known = columns.data[order], is_known[columns.indices[order]].astype(np.float64)
    begins = np.ones(len(x), dtype=bool)
    begins[1:] = (x[1:] != x[:-1]) | (column[1:] != column[:-1])
    first = np.flatnonzero(begins)  # of each group of ties
    group, of_column = np.cumsum(begins) - 1, column[first]
    size = np.diff(np.append(first, len(x))).astype(np.float64)
    n_zero = (n_rows - stored).astype(np.float64)
    rank = first - columns.indptr[of_column] + (size + 1) / 2 + np.where(x[first] > 0, n_zero[of_column], 0.0)

    def per_column(weights: np.ndarray, at: np.ndarray) -> np.ndarray:
        return np.bincount(at, weights, minlength=n_columns)

    known_in_group = np.bincount(group, known, minlength=len(first))
    zero_rank = per_column((x < 0).astype(np.float64), column) + (n_zero + 1) / 2
    ranks = per_column(rank * known_in_group, of_column) + (n_known - per_column(known, column)) * zero_rank
    u = ranks - n_known * (n_known + 1) / 2
    ties = per_column(size**3 - size, of_column) + n_zero**3 - n_zero
    variance = n_pairs / 12 * (n_rows + 1 - ties / (n_rows * (n_rows - 1)))
    p_value = _two_sided(np.maximum(u, n_pairs - u) - n_pairs / 2 - 0.5, variance, 1e-9 * n_pairs)
    return RankTest(u / n_pairs, p_value, variance)


def _two_sided(distance: np.ndarray, variance: np.ndarray, least: float) -> np.ndarray:
    """Return the two-sided p of a distance from the mean; 1 where nothing varies."""
    varies = variance > least
    z = distance / np.sqrt(np.where(varies, variance, 1.0))
    return np.where(varies, np.minimum(1.0, 2 * stats.norm.sf(z)), 1.0)


def stratified_rank_test(
    values: csr_array, is_known: Bool[np.ndarray, " n"], stratum: Int[np.ndarray, " n"]
) -> RankTest:
    """Return van Elteren's test of every column: known and unknown entities are compared inside each stratum only.

        AUROC = sum_h w_h U_h / sum_h w_h n_h m_h,  w_h = 1 / (N_h + 1),  z = |sum_h w_h (U_h - n_h m_h / 2)| / s
        s^2 = sum_h w_h^2 Var(U_h)

    Strata with one class only say nothing. Without any other the result is AUROC NaN, p 1. With one stratum it is the
    rank test without continuity correction. Source: van Elteren 1960, the weights that are best for equal shifts.
    """
    n_columns = int(csr_array(values).shape[1])  # pyright: ignore[reportOptionalSubscript]
    total, pairs, variance = np.zeros(n_columns), 0.0, np.zeros(n_columns)
    for h in np.unique(stratum):
        rows = np.flatnonzero(stratum == h)
        n = int(is_known[rows].sum())
        if 0 < n < len(rows):
            found, w = rank_test(values[rows], is_known[rows]), 1 / (len(rows) + 1)
            n_pairs = n * (len(rows) - n)
            total, pairs, variance = (
                total + w * found.auroc * n_pairs,
                pairs + w * n_pairs,
                variance + w**2 * found.variance,
            )
    if not pairs:
        return RankTest(np.full(n_columns, np.nan), np.ones(n_columns), variance)
    return RankTest(total / pairs, _two_sided(np.abs(total - pairs / 2), variance, 1e-12), variance)


def q_values(p: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Return Benjamini-Hochberg adjusted p-values over everything that was tested, shape kept."""
    return stats.false_discovery_control(p.ravel()).reshape(p.shape)
