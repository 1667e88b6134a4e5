"""Sums of squares in as few passes over memory as possible."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def sum_of_squares(values: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
    """Return sum values^2: one pass forward and one backward, where `square().sum()` takes two of each.

    Example:
        >>> sum_of_squares(torch.tensor([[1.0, -2.0]])).item()
        5.0
    """
    return _SumOfSquares.apply(values)


class _SumOfSquares(torch.autograd.Function):
    """sum values^2, with the gradient 2 values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return torch.linalg.vector_norm(values).square()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides its parameters
        ctx: Any, *grad_outputs: Tensor
    ) -> Tensor:
        (values,) = ctx.saved_tensors
        return values * (2 * grad_outputs[0])
