"""Moments of every dimension over a stream of rows: mean, variance, excess kurtosis, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CONSTANT_BELOW = 1e-12  # standard deviation over |mean|; float32 values that differ at all lie above it


@dataclass(frozen=True)
class Moments:
    """Moments of every dimension over the rows seen; NaN where there were none.

    Attributes:
        n_rows: Rows behind the figures.
        mean: Mean, (d_in,).
        variance: Mean squared distance from the mean (divided by n, not n - 1), (d_in,).
        kurtosis: Excess kurtosis m4 / m2^2 - 3, which is 0 for a Gaussian, (d_in,); NaN where a dimension is constant.
    """

    n_rows: int
    mean: Float[Tensor, " d_in"]
    variance: Float[Tensor, " d_in"]
    kurtosis: Float[Tensor, " d_in"]

    @property
    def mean_square(self) -> Float[Tensor, " d_in"]:
        """Mean of the squared values, (d_in,)."""
        return self.variance + self.mean.square()


class MomentSums:
    """Accumulates moments over blocks of rows; equals the one-shot value whatever the blocks.

    Each block is centred by its own mean and merged with what came before by the update formulas of Pebay 2008
    (SAND2008-6212, eq. 2.1 and 3.1), in float64. No power of an uncentred value is ever summed, so a dimension with a
    large mean and a small variance loses nothing.
    """

    def __init__(self, d_in: int) -> None:
        self.n_rows = 0
        self._mean, self._m2, self._m3, self._m4 = torch.zeros(4, d_in, dtype=torch.float64)

    def update(self, rows: Float[Tensor, "row d_in"]) -> None:
        """Add one block of finite rows."""
        n_new = len(rows)
        if not n_new:
            return
        x = rows.detach().cpu().to(torch.float64, copy=True)
        mean = x.mean(0)
        x -= mean
        squares = x.square()
        m2 = squares.sum(0)
        m3 = x.mul_(squares).sum(0)  # in place: new memory would cost more than the arithmetic
        m4 = squares.square_().sum(0)
        a, b = float(self.n_rows), float(n_new)
        n, d = a + b, mean - self._mean
        self._m4 += m4 + d**4 * (a * b * (a * a - a * b + b * b) / n**3)
        self._m4 += 6 * d**2 * (a * a * m2 + b * b * self._m2) / n**2 + 4 * d * (a * m3 - b * self._m3) / n
        self._m3 += m3 + d**3 * (a * b * (a - b) / n**2) + 3 * d * (a * m2 - b * self._m2) / n
        self._m2 += m2 + d**2 * (a * b / n)
        self._mean += d * (b / n)
        self.n_rows += n_new

    def result(self) -> Moments:
        """Return the moments of everything seen so far."""
        if not self.n_rows:
            nothing = torch.full_like(self._mean, torch.nan)
            return Moments(0, nothing, nothing, nothing)
        variance = self._m2 / self.n_rows
        is_constant = variance.sqrt() <= CONSTANT_BELOW * self._mean.abs()
        variance = torch.where(is_constant, 0.0, variance)
        kurtosis = torch.where(is_constant, torch.nan, self._m4 / self.n_rows / variance.square() - 3)
        return Moments(self.n_rows, self._mean.clone(), variance, kurtosis)
