"""Compare two stores at one hook point: are the rows the same, and how far have the activations moved?

Meant for one text read by two models, such as one before and after unlearning. One pass over both files, the same
slices of each; memory: 8 bytes a row, one block of each, and two bounded samples (`CKA_ROWS`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_train.activations.measures.moments import Moments, MomentSums
from sae_train.activations.measures.sample_geometry import RowSample, finite_rows
from sae_train.activations.store import ActivationStore
from sae_train.errors import HookPointError, ShapeError, nearest_first

CKA_ROWS = 8_192
N_CHANGED_DIMS = 10
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
_TAIL_CHUNKS = 8  # read at once where the second store is the longer one
_SAME = ("token_id", "doc_id", "position")


@dataclass(frozen=True)
class DimensionChange:
    """How one dimension moved from `a` to `b`.

    Attributes:
        dimension: Its index.
        change: |mean_b - mean_a| / std_a.
        std_ratio: std_b / std_a.
    """

    dimension: int
    change: float
    std_ratio: float


@dataclass(frozen=True)
class RowChange:
    """||b - a|| / ||a|| over pairs of rows; rows of norm zero in `a` are left out.

    Attributes:
        n_rows: Pairs behind the figures.
        mean: Mean.
        percentiles: Median, 90th and 99th percentile, maximum.
        frac_unchanged: Share of pairs that are equal in every value.
        mean_text, mean_entity: Mean over rows of running text and over last name tokens (`from_entity`).
    """

    n_rows: int
    mean: float
    percentiles: dict[str, float]
    frac_unchanged: float
    mean_text: float
    mean_entity: float


@dataclass(frozen=True)
class StoreComparison:
    """Two stores at one hook point, over finite rows; NaN where nothing was to be measured.

    Attributes:
        hook_point: Canonical name.
        n_rows_a, n_rows_b: Rows of each store.
        frac_same_rows: Share of the longer store's rows with equal token, document and position at the same place.
        has_same_rows: All of them; what follows with * is measured only then.
        mean_shift: ||mean_b - mean_a|| / sqrt(total variance of a), so 1 is a move by the whole spread of `a`.
        spread_ratio: sqrt(total variance of b / total variance of a).
        cka: * Linear CKA of at most `CKA_ROWS` rows: 1 up to rotation, shift and scale, near 0 if unrelated.
        row_change: * Relative change of the rows, or None.
        dimension_change: |mean_b - mean_a| / std_a of every dimension; NaN where `a` is constant.
        changed_dims: The dimensions with the largest change, largest first.
    """

    hook_point: str
    n_rows_a: int
    n_rows_b: int
    frac_same_rows: float
    has_same_rows: bool
    mean_shift: float
    spread_ratio: float
    cka: float
    row_change: RowChange | None
    dimension_change: list[float]
    changed_dims: list[DimensionChange]


def common_hook_points(a: ActivationStore, b: ActivationStore) -> list[str]:
    """Return the hook points that both stores have, in the order of the first.

    Raises:
        HookPointError: There is none.
    """
    common = [name for name in a.hook_points if name in b.hook_points]
    if not common:
        raise HookPointError(
            f"'{a.path}' and '{b.path}' have no hook point in common",
            got=", ".join(b.hook_points),
            expected=f"one of {nearest_first(b.hook_points[0], a.hook_points)}",
            try_=f"wb cache-activations --hook-point {a.hook_points[0]} …",
        )
    return common


def compare_stores(a: ActivationStore, b: ActivationStore, hook_point: str) -> StoreComparison:
    """Measure how `b` differs from `a` at one hook point.

    Raises:
        HookPointError: One of them has no such hook point.
        ShapeError: Their rows have different widths there.
    """
    hook_point, _ = a.hook_point(hook_point), b.hook_point(hook_point)
    d_in = a.d_in(hook_point)
    if b.d_in(hook_point) != d_in:
        raise ShapeError(
            f"the two stores have different widths at {hook_point}",
            got=f"(n_rows, {b.d_in(hook_point)}) in '{b.path}'",
            expected=f"(n_rows, {d_in}) as in '{a.path}'",
        )
    frac_same = frac_same_rows(a, b)
    has_same = frac_same == 1
    sums_a, sums_b, pairs = MomentSums(d_in), MomentSums(d_in), _PairSums(a.n_rows, d_in)
    for rows_a, rows_b in _block_pairs(a, b, hook_point):
        for sums, rows in ((sums_a, rows_a), (sums_b, rows_b)):
            sums.update(rows[finite_rows(rows)])
        if has_same:
            pairs.update(rows_a, rows_b)
    moments_a, moments_b = sums_a.result(), sums_b.result()
    change = _dimension_change(moments_a, moments_b)
    total_a, total_b = float(moments_a.variance.sum()), float(moments_b.variance.sum())
    shift = float((moments_b.mean - moments_a.mean).norm())
    return StoreComparison(
        hook_point=hook_point,
        n_rows_a=a.n_rows,
        n_rows_b=b.n_rows,
        frac_same_rows=frac_same,
        has_same_rows=has_same,
        mean_shift=shift / total_a**0.5 if total_a > 0 else float("nan"),
        spread_ratio=(total_b / total_a) ** 0.5 if total_a > 0 else float("nan"),
        cka=pairs.cka() if has_same else float("nan"),
        row_change=pairs.row_change(a.row_field("from_entity") == 1) if has_same else None,
        dimension_change=change.tolist(),
        changed_dims=_changed_dims(change, moments_a, moments_b),
    )


def frac_same_rows(a: ActivationStore, b: ActivationStore) -> float:
    """Return the share of the longer store's rows whose token, document and position are equal in the other."""
    n_common = min(a.n_rows, b.n_rows)
    is_same = np.ones(n_common, dtype=bool)
    for field in _SAME:
        is_same &= a.row_field(field)[:n_common] == b.row_field(field)[:n_common]
    return float(is_same.sum() / max(a.n_rows, b.n_rows, 1))


def linear_cka(x: Float[Tensor, "row d_x"], y: Float[Tensor, "row d_y"]) -> float:
    """Return ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), both centred: linear CKA, Kornblith et al. 2019, eq. 4.

    In [0, 1]; unchanged by rotating, shifting or scaling either side. Unrelated data give not 0 but about
    d / n_rows, so use many more rows than dimensions. NaN where one side is constant.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
        >>> round(linear_cka(x, -5 * x.flip(1) + 1), 6)
        1.0
    """
    assert len(x) == len(y), (len(x), len(y))
    if len(x) < 2:
        return float("nan")
    x, y = ((v.double() - v.double().mean(0)) for v in (x, y))
    if max(x.shape[1], y.shape[1]) <= len(x):
        cross, own = (y.T @ x).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    else:  # fewer rows than dimensions: the same numbers from the smaller matrices
        gram_x, gram_y = x @ x.T, y @ y.T
        cross, own = (gram_x * gram_y).sum(), gram_x.norm() * gram_y.norm()
    return float(cross / own)


class _PairSums:
    """Gathers what is measured on pairs of rows."""

    def __init__(self, n_rows: int, d_in: int) -> None:
        self._change = np.full(n_rows, np.nan)
        self._n_seen = 0
        self._samples = [RowSample(n_rows, d_in, size=CKA_ROWS) for _ in range(2)]

    def update(self, rows_a: Float[Tensor, "row d_in"], rows_b: Float[Tensor, "row d_in"]) -> None:
        """Add one block of pairs; a pair with NaN or Inf counts as none."""
        change = (rows_b.double() - rows_a.double()).norm(dim=1) / rows_a.double().norm(dim=1)
        self._change[self._n_seen : self._n_seen + len(rows_a)] = change.numpy()
        self._n_seen += len(rows_a)
        for sample, rows in zip(self._samples, (rows_a, rows_b), strict=True):
            sample.update(rows)

    def cka(self) -> float:
        """Return the linear CKA of the sampled pairs."""
        x, y = (sample.rows() for sample in self._samples)
        is_finite = finite_rows(x) & finite_rows(y)
        return linear_cka(x[is_finite], y[is_finite])

    def row_change(self, is_entity: Bool[np.ndarray, " row"]) -> RowChange | None:
        """Return the relative change; None where no pair has one."""
        is_pair = np.isfinite(self._change)
        found = self._change[is_pair]
        if not len(found):
            return None
        ranks = np.percentile(found, list(PERCENTILES.values()))
        return RowChange(
            n_rows=len(found),
            mean=float(found.mean()),
            percentiles=dict(zip(PERCENTILES, map(float, ranks), strict=True)),
            frac_unchanged=float((found == 0).mean()),
            mean_text=_mean(self._change[is_pair & ~is_entity]),
            mean_entity=_mean(self._change[is_pair & is_entity]),
        )


def _mean(values: Float[np.ndarray, " n"]) -> float:
    """Return the mean, NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def _block_pairs(
    a: ActivationStore, b: ActivationStore, hook_point: str
) -> Iterator[tuple[Float[Tensor, "row d_in"], Float[Tensor, "other_row d_in"]]]:
    """Read both stores in the blocks of the first; the shorter one ends with empty blocks."""
    nothing = torch.empty(0, a.d_in(hook_point))
    for part, rows_a in a.blocks(hook_point):
        has_rows = part.start < b.n_rows
        yield rows_a, b.rows(hook_point, slice(part.start, min(part.stop, b.n_rows))) if has_rows else nothing
    step = b.chunk_rows(hook_point) * _TAIL_CHUNKS
    for start in range(a.n_rows, b.n_rows, step):
        yield nothing, b.rows(hook_point, slice(start, min(start + step, b.n_rows)))


def _dimension_change(a: Moments, b: Moments) -> Float[Tensor, " d_in"]:
    """Return |mean_b - mean_a| / std_a, NaN where `a` is constant."""
    std = a.variance.sqrt()
    return torch.where(std > 0, (b.mean - a.mean).abs() / std, torch.nan)


def _changed_dims(change: Float[Tensor, " d_in"], a: Moments, b: Moments) -> list[DimensionChange]:
    """Return the dimensions that moved most."""
    top = change.nan_to_num(nan=-1.0).topk(min(N_CHANGED_DIMS, len(change)))
    ratio = (b.variance / a.variance).sqrt()
    return [
        DimensionChange(i, value, float(ratio[i]))
        for value, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        if value >= 0
    ]
