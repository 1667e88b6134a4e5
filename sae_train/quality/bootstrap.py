"""Bootstrap intervals over documents: how much a figure varies between samples of documents.

Tokens of a document resemble each other, so documents are resampled, never tokens (cluster bootstrap: Efron &
Tibshirani 1993, ch. 8; Davison & Hinkley 1997, sec. 3.8). A figure that is a ratio of sums needs only its sums per
document: a draw is a row of counts, and all replicates are one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sae_train.intervals import Interval
from sae_train.rng import rng

N_DRAWS = 1000
MAX_GROUPS = 1000  # sums that are kept; with more documents, several share one
ENDS = ((1 - 0.95) / 2, (1 + 0.95) / 2)  # rounded otherwise than 0.025; figures on disk were made with it
RARE_GROUPS = 30  # whoever is in more than so many groups is missed by a draw with a probability below e^-30
_COLUMNS = 4096  # of a presence matrix that are looked at together


class Groups(NamedTuple):
    """Documents dealt out to groups.

    Attributes:
        of_row: Group of each row, (n_rows,).
        n: Number of groups.
        n_documents: Number of documents.
    """

    of_row: Int[np.ndarray, " n_rows"]
    n: int
    n_documents: int


def document_groups(doc_id: Int[np.ndarray, " n_rows"]) -> Groups:
    """Deal documents out to at most `MAX_GROUPS` groups: memory stays bounded, and whole documents stay together.

    Example:
        >>> document_groups(np.array([7, 7, 3, 9])).of_row.tolist()
        [1, 1, 0, 2]
    """
    documents, rank = np.unique(doc_id, return_inverse=True)
    return Groups(rank % MAX_GROUPS, min(len(documents), MAX_GROUPS), len(documents))


def draw_counts(n_groups: int, seed: int = 0, n_draws: int = N_DRAWS) -> Float[np.ndarray, "n_draws n_groups"]:
    """Return how often each group is in each resample of `n_groups` groups, drawn with replacement."""
    shares = np.full(n_groups, 1 / n_groups)
    return rng("bootstrap.documents", seed).multinomial(n_groups, shares, size=n_draws).astype(np.float64)


def central_range(
    draws: Float[np.ndarray, " n_draws"] | Sequence[float], ends: tuple[float, float] = (0.025, 0.975)
) -> tuple[float, float]:
    """Return the ends of the central 95 % of some draws (percentile interval); NaN among them does not count.

    Example:
        >>> central_range(np.arange(41.0))
        (1.0, 39.0)
    """
    low, high = np.nanquantile(draws, ends)
    return float(low), float(high)


def percentile_interval(value: float, replicates: Float[np.ndarray, " n_draws"], n_groups: int) -> Interval:
    """Return a figure with the central 95 % of its replicates; NaN for a single group: it tells nothing of others."""
    if n_groups < 2 or not np.isfinite(replicates).any():
        return Interval(value, float("nan"), float("nan"))
    return Interval(value, *central_range(replicates, ENDS))


def absent_interval(present: Bool[np.ndarray, "n_groups n"], counts: Float[np.ndarray, "n_draws n_groups"]) -> Interval:
    """Return the share of columns that are in no group, with an interval.

    A resample repeats some groups and lacks others, so it always finds more columns absent than the sample did. The
    replicates are therefore moved until their mean is the measured share: their spread is what is used. It is the
    spread of the share in samples of this many documents, not an estimate of what more documents would find. The
    interval always holds the measured share.
    """
    n_groups, n = present.shape
    n_present = present.sum(axis=0)
    absent = np.full(len(counts), float((n_present == 0).sum()))
    rare = np.flatnonzero((n_present > 0) & (n_present <= RARE_GROUPS))
    drawn = counts.astype(np.float32)
    for start in range(0, len(rare), _COLUMNS):
        columns = present[:, rare[start : start + _COLUMNS]].astype(np.float32)
        absent += (drawn @ columns == 0).sum(axis=1)
    share = float((n_present == 0).mean())
    found = percentile_interval(share, absent / n - (absent.mean() / n - share), n_groups)
    if not np.isfinite(found.low):
        return found
    return Interval(share, max(0.0, min(found.low, share)), min(1.0, max(found.high, share)))
