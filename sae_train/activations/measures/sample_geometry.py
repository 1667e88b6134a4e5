"""Geometry of a bounded sample of rows: how it is drawn, its spectrum, its duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_train.rng import rng

SAMPLE_ROWS = 16_384  # rows behind a spectrum: 4 bytes x d_in each
DUPLICATE_ROWS = 4_096  # rows compared pairwise
NEAR_COSINE = 0.999
NEAR_NORM = 0.01  # largest difference of two norms, as a share of the larger one
_PAIR_BLOCK = 1_024  # rows compared at once: 16 MiB of cosines


class RowSample:
    """Keeps rows of a stream of known length: each with the same chance, the choice a function of the seed alone.

    Two streams of equal length give the same places, whatever their blocks.
    """

    def __init__(self, n_rows: int, d_in: int, *, size: int = SAMPLE_ROWS, seed: int = 0) -> None:
        size = min(size, n_rows)
        self._places = np.sort(rng("sample_geometry.rows", seed).choice(n_rows, size, replace=False, shuffle=False))
        self._rows = torch.zeros(size, d_in)
        self._n_seen = 0

    def update(self, rows: Float[Tensor, "row d_in"]) -> None:
        """Take the chosen rows of the next block."""
        first, last = np.searchsorted(self._places, [self._n_seen, self._n_seen + len(rows)])
        self._rows[first:last] = rows[torch.from_numpy(self._places[first:last] - self._n_seen)]
        self._n_seen += len(rows)

    def rows(self) -> Float[Tensor, "row d_in"]:
        """Return the rows chosen among those seen, in the order of the stream, NaN and Inf included."""
        return self._rows[: np.searchsorted(self._places, self._n_seen)]


def finite_rows(rows: Float[Tensor, "row d_in"]) -> Bool[Tensor, " row"]:
    """Tell which float32 rows hold neither NaN nor Inf.

    Their sum in float64 tells: no sum of finite float32 values overflows it. A tenth of the time of looking at each.

    Example:
        >>> finite_rows(torch.tensor([[3e38, 3e38], [0.0, torch.nan], [torch.inf, -torch.inf]])).tolist()
        [True, False, False]
    """
    return torch.isfinite(rows.sum(dim=1, dtype=torch.float64))


@dataclass(frozen=True)
class Spectrum:
    """How the variance of a sample spreads over its principal components; NaN and empty where nothing varies.

    Attributes:
        n_rows: Rows behind it; fewer than `d_in` of them bound the rank from above.
        effective_rank: exp(-sum p ln p), p the fractions below: the number of equally strong components that would
            have the same entropy. Roy & Vetterli 2007, with the eigenvalues of the covariance in the place of the
            singular values of the matrix.
        frac_top1, frac_top10: Share of the variance along the first, and along the first ten components.
        frac_components: Share of the variance of each component, largest first, (min(d_in, n_rows),).
    """

    n_rows: int
    effective_rank: float
    frac_top1: float
    frac_top10: float
    frac_components: list[float]


def spectrum(rows: Float[Tensor, "row d_in"], *, is_centered: bool = True) -> Spectrum:
    """Return the spectrum of the covariance of finite rows; not centred, of the squared singular values of a matrix.

    Takes the smaller of the two Gram matrices, so at most min(n_rows, d_in)^2 numbers.

    Example:
        >>> round(spectrum(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])).effective_rank, 6)
        2.0
    """
    x = rows.double()
    nothing = Spectrum(len(x), float("nan"), float("nan"), float("nan"), [])
    if len(x) < 2:
        return nothing
    x = x - x.mean(0) if is_centered else x
    values = torch.linalg.eigvalsh(x.T @ x if x.shape[1] <= len(x) else x @ x.T).flip(0).clamp_min(0)
    if float(values.sum()) <= 1e-24 * float(rows.double().square().sum()):  # rounding of a constant
        return nothing
    fractions = values / values.sum()
    return Spectrum(
        n_rows=len(x),
        effective_rank=float(torch.special.entr(fractions).sum().exp()),
        frac_top1=float(fractions[0]),
        frac_top10=float(fractions[:10].sum()),
        frac_components=fractions.tolist(),
    )


@dataclass(frozen=True)
class Duplicates:
    """How many rows of a sample have a double in it; more rows find more, so compare equal sizes only.

    Attributes:
        n_rows: Rows compared, each with each.
        frac_exact: Share with another row that is equal in every value.
        frac_near: Share with another row at a cosine above 0.999 whose norm differs by at most 1 %, exact ones
            included.
    """

    n_rows: int
    frac_exact: float
    frac_near: float


def duplicates(rows: Float[Tensor, "row d_in"], *, seed: int = 0) -> Duplicates:
    """Compare at most `DUPLICATE_ROWS` of the rows given, drawn by the seed, each with each.

    Example:
        >>> duplicates(torch.tensor([[1.0, 0], [1.0, 0], [1.001, 0], [2.0, 0]]))
        Duplicates(n_rows=4, frac_exact=0.5, frac_near=0.75)
    """
    if not len(rows):
        return Duplicates(0, float("nan"), float("nan"))
    chosen = rng("sample_geometry.duplicates", seed).permutation(len(rows))[:DUPLICATE_ROWS]
    x = rows[torch.from_numpy(chosen)].float()
    _, inverse, counts = torch.unique(x, dim=0, return_inverse=True, return_counts=True)
    has_exact = counts[inverse] > 1
    has_near = has_exact | _has_near(x)
    return Duplicates(len(x), float(has_exact.double().mean()), float(has_near.double().mean()))


def _has_near(x: Float[Tensor, "row d_in"]) -> Bool[Tensor, " row"]:
    """Tell which rows have another one close by."""
    norms = x.double().norm(dim=1)
    unit = (x / norms.clamp_min(1e-300)[:, None]).float()
    lengths = (norms / norms.max().clamp_min(1e-300)).float()  # float32 holds every ratio, whatever the scale
    found = []
    for start in range(0, len(x), _PAIR_BLOCK):
        part = slice(start, start + _PAIR_BLOCK)
        is_near = unit[part] @ unit.T > NEAR_COSINE
        difference = (lengths[part, None] - lengths).abs()
        is_near &= difference <= NEAR_NORM * torch.maximum(lengths[part, None], lengths)
        is_near[torch.arange(len(is_near)), torch.arange(start, start + len(is_near))] = False
        found.append(is_near.any(dim=1))
    return torch.cat(found)
