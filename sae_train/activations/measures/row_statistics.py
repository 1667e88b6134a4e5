"""Statistics of the rows of one hook point: norms, moments, massive dimensions, spectrum, duplicates, drift.

One pass over the file. Memory: 8 bytes a row, one block, a bounded sample (`SAMPLE_ROWS`), d_in x d_in for its
spectrum, and two numbers for each token of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.activations.measures.moments import Moments, MomentSums
from sae_train.activations.measures.sample_geometry import (
    Duplicates,
    RowSample,
    Spectrum,
    duplicates,
    finite_rows,
    spectrum,
)
from sae_train.activations.store import ActivationStore

PERCENTILES = {"p01": 1, "p25": 25, "p50": 50, "p75": 75, "p99": 99, "max": 100}
N_MASSIVE = 10
N_TOP_TOKENS = 20
MIN_TOKEN_ROWS = 5  # rarer tokens have no mean worth ranking
NORM_BINS = 40
_MAX_VOCABULARY = 2**24  # beyond this a token id is damage, not a vocabulary
_MAX_POSITION_BINS = 33  # positions are int32


@dataclass(frozen=True)
class DimensionStats:
    """Every dimension: see `Moments`."""

    mean: list[float]
    variance: list[float]
    kurtosis: list[float]


@dataclass(frozen=True)
class MassiveDim:
    """A dimension that carries much of the norm.

    Attributes:
        dimension: Its index.
        frac_squares: Its share of the sum of all squared values.
        times_median: Its root mean square over that of the median dimension; infinite where most are zero.
    """

    dimension: int
    frac_squares: float
    times_median: float


@dataclass(frozen=True)
class LargestKurtosis:
    """The dimension with the heaviest tails."""

    dimension: int
    kurtosis: float


@dataclass(frozen=True)
class NormHistogram:
    """Row norms in bins of equal ratio; rows of norm zero are left out.

    Attributes:
        edges: Borders of the bins, one more than `counts`.
        counts: Rows in each bin.
    """

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class TokenNorm:
    """A token, how many rows it has, and their mean norm."""

    token_id: int
    n_rows: int
    mean_norm: float


@dataclass(frozen=True)
class PositionBin:
    """The rows at some positions of their documents.

    Attributes:
        first, last: The positions, both included.
        mean_norm: Mean norm of the rows.
        cosine: Cosine between the mean of these rows and the mean of all.
    """

    first: int
    last: int
    n_rows: int
    mean_norm: float
    cosine: float


@dataclass(frozen=True)
class HookPointStats:
    """Statistics of one hook point over all finite rows; NaN where nothing was to be measured.

    Attributes:
        norm_percentiles: Row norms at the 1st, 25th, 50th, 75th, 99th percentile and the maximum.
        norm_histogram: Row norms in bins.
        mean_norm: Mean row norm.
        n_nonfinite_rows: Rows with NaN or Inf; they are left out of the rest.
        largest: Largest absolute value.
        variance: Mean over dimensions of the variance over rows.
        mean_kurtosis: Mean over the dimensions that vary of the excess kurtosis m4 / m2^2 - 3.
        largest_kurtosis: The dimension with the largest one, or None.
        frac_mean: Share of the summed squares that the mean row alone accounts for, ||mean||^2 / mean ||x||^2.
        dimensions: Mean, variance and kurtosis of every dimension.
        massive_dims: The dimensions with the largest share of the summed squares, largest first.
        spectrum: Effective rank and principal components, of a sample.
        duplicates: Equal and nearly equal rows, of a sample.
        top_tokens: Tokens by mean norm, largest first, of those with at least `MIN_TOKEN_ROWS` rows.
        positions: Norm and direction by position: 0, 1, 2-3, 4-7, 8-15, …
    """

    d_in: int
    n_rows: int
    n_nonfinite_rows: int
    norm_percentiles: dict[str, float]
    norm_histogram: NormHistogram
    mean_norm: float
    largest: float
    variance: float
    mean_kurtosis: float
    largest_kurtosis: LargestKurtosis | None
    frac_mean: float
    dimensions: DimensionStats
    massive_dims: list[MassiveDim]
    spectrum: Spectrum
    duplicates: Duplicates
    top_tokens: list[TokenNorm]
    positions: list[PositionBin]


class HookPointAccumulator:
    """Gathers the statistics of one hook point over consecutive blocks of rows; `result` does not end it.

    Args:
        d_in: Width of the rows.
        n_rows: How many there will be at most: the sample is drawn from the whole stream before it begins.
    """

    def __init__(self, d_in: int, n_rows: int) -> None:
        self.d_in = d_in
        self._n_seen = 0
        self._norms = np.empty(n_rows)
        self._largest = float("nan")
        self._moments = MomentSums(d_in)
        self._sample = RowSample(n_rows, d_in)
        self._token_sums = np.zeros((2, 0))  # rows and summed norms of each token id
        self._position_norms = np.zeros((2, _MAX_POSITION_BINS))  # rows and summed norms of each bin
        self._position_sums = torch.zeros(_MAX_POSITION_BINS, d_in, dtype=torch.float64)

    def update(
        self, rows: Float[Tensor, "row d_in"], token_id: Int[np.ndarray, " row"], position: Int[np.ndarray, " row"]
    ) -> None:
        """Add the next block."""
        last = self._n_seen + len(rows)
        assert last <= len(self._norms), (last, len(self._norms))
        self._sample.update(rows)
        is_finite = finite_rows(rows)
        x = (rows if bool(is_finite.all()) else rows[is_finite]).double()
        norms = x.norm(dim=1)
        block = self._norms[self._n_seen : last]
        block[:] = np.nan
        block[is_finite.numpy()] = norms.numpy()
        self._n_seen = last
        if len(x):
            self._moments.update(x)
            self._largest = float(np.fmax(self._largest, max(-float(x.min()), float(x.max()))))
            self._add_tokens(token_id[is_finite.numpy()], norms.numpy())
            self._add_positions(x, position[is_finite.numpy()], norms.numpy())

    def _add_tokens(self, token_id: np.ndarray, norms: np.ndarray) -> None:
        """Count rows and sum norms by token."""
        is_token = (token_id >= 0) & (token_id < _MAX_VOCABULARY)
        ids, norms = token_id[is_token], norms[is_token]
        missing = int(ids.max(initial=-1)) + 1 - self._token_sums.shape[1]
        if missing > 0:
            self._token_sums = np.pad(self._token_sums, ((0, 0), (0, missing)))
        n_tokens = self._token_sums.shape[1]
        self._token_sums[0] += np.bincount(ids, minlength=n_tokens)
        self._token_sums[1] += np.bincount(ids, norms, minlength=n_tokens)

    def _add_positions(self, x: Float[Tensor, "row d_in"], position: np.ndarray, norms: np.ndarray) -> None:
        """Sum rows and norms by bin of positions; 2^(b-1) … 2^b - 1 is bin b, 0 is bin 0."""
        is_position = position >= 0
        _, bins = np.frexp(position[is_position].astype(np.float64))
        self._position_norms[0] += np.bincount(bins, minlength=_MAX_POSITION_BINS)
        self._position_norms[1] += np.bincount(bins, norms[is_position], minlength=_MAX_POSITION_BINS)
        is_in_bin = torch.zeros(_MAX_POSITION_BINS, len(x), dtype=torch.float64)
        is_in_bin[torch.from_numpy(bins).long(), torch.from_numpy(np.flatnonzero(is_position))] = 1
        self._position_sums += is_in_bin @ x

    def result(self) -> HookPointStats:
        """Return the statistics of the rows seen so far."""
        norms = self._norms[: self._n_seen]
        norms = norms[np.isfinite(norms)]
        moments = self._moments.result()
        sample = self._sample.rows()
        sample = sample[finite_rows(sample)]
        ranks = list(PERCENTILES.values())
        percentiles = np.percentile(norms, ranks) if len(norms) else np.full(len(ranks), np.nan)
        squares = moments.mean_square.sum()
        return HookPointStats(
            d_in=self.d_in,
            n_rows=self._n_seen,
            n_nonfinite_rows=self._n_seen - moments.n_rows,
            norm_percentiles=dict(zip(PERCENTILES, map(float, percentiles), strict=True)),
            norm_histogram=_histogram(norms),
            mean_norm=float(norms.mean()) if len(norms) else float("nan"),
            largest=self._largest,
            variance=float(moments.variance.mean()),
            mean_kurtosis=float(moments.kurtosis.nanmean()),
            largest_kurtosis=_largest_kurtosis(moments.kurtosis),
            frac_mean=float(moments.mean.square().sum() / squares),
            dimensions=DimensionStats(*(v.tolist() for v in (moments.mean, moments.variance, moments.kurtosis))),
            massive_dims=_massive_dims(moments.mean_square),
            spectrum=spectrum(sample),
            duplicates=duplicates(sample),
            top_tokens=self._top_tokens(),
            positions=self._positions(moments),
        )

    def _top_tokens(self) -> list[TokenNorm]:
        """Rank the tokens that are frequent enough."""
        counts, sums = self._token_sums
        ids = np.flatnonzero(counts >= MIN_TOKEN_ROWS)
        means = sums[ids] / counts[ids]
        order = np.argsort(-means, kind="stable")[:N_TOP_TOKENS]
        return [TokenNorm(int(ids[i]), int(counts[ids[i]]), float(means[i])) for i in order]

    def _positions(self, moments: Moments) -> list[PositionBin]:
        """Return the bins that hold rows."""
        counts, sums = self._position_norms
        cosines = torch.cosine_similarity(self._position_sums, moments.mean[None], dim=1, eps=1e-300)
        return [
            PositionBin(2**b // 2, 2**b - 1 if b else 0, int(counts[b]), float(sums[b] / counts[b]), float(cosines[b]))
            for b in np.flatnonzero(counts).tolist()
        ]


def hook_point_stats(store: ActivationStore, hook_point: str) -> HookPointStats:
    """Read one hook point once, block by block, and describe it."""
    sums = HookPointAccumulator(store.d_in(hook_point), store.n_rows)
    token_id, position = store.row_field("token_id"), store.row_field("position")
    for part, rows in store.blocks(hook_point):
        sums.update(rows, token_id[part], position[part])
    return sums.result()


def _massive_dims(mean_square: Float[Tensor, " d_in"]) -> list[MassiveDim]:
    """Return the dimensions with the largest mean square; none where everything is zero or nothing was read."""
    if not float(mean_square.sum()) > 0:
        return []
    top = torch.topk(mean_square, min(N_MASSIVE, len(mean_square)))
    shares, times = top.values / mean_square.sum(), (top.values / mean_square.quantile(0.5)).sqrt()
    rows = zip(top.indices.tolist(), shares.tolist(), times.tolist(), strict=True)
    return [MassiveDim(dimension, share, n_times) for dimension, share, n_times in rows]


def _largest_kurtosis(kurtosis: Float[Tensor, " d_in"]) -> LargestKurtosis | None:
    """Return the dimension with the heaviest tails; None where none varies."""
    if bool(kurtosis.isnan().all()):
        return None
    at = int(kurtosis.nan_to_num(nan=-torch.inf).argmax())
    return LargestKurtosis(at, float(kurtosis[at]))


def _histogram(norms: Float[np.ndarray, " row"]) -> NormHistogram:
    """Count norms in `NORM_BINS` bins of equal ratio between the smallest and the largest."""
    positive = norms[norms > 0]
    if not len(positive):
        return NormHistogram([], [])
    low, high = float(positive.min()), float(positive.max())
    if high <= low * (1 + 1e-9):
        low, high = low * 0.99, high * 1.01
    edges = np.geomspace(low, high, NORM_BINS + 1)
    edges[0], edges[-1] = low, high  # rounding must not push an end outside
    counts, _ = np.histogram(positive, edges)
    return NormHistogram(edges.tolist(), counts.tolist())
