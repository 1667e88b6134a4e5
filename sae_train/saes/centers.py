"""Initial value of an SAE's `b_dec`: the mean of a sample, or its geometric median."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

RELATIVE_TOLERANCE = 1e-6  # the last step against the mean distance
MAX_STEPS = 200


def mean(acts: Float[Tensor, "row d_in"]) -> Float[Tensor, " d_in"]:
    """Return the mean of the rows: the point of least sum of squared distances."""
    return acts.mean(dim=0)


def geometric_median(acts: Float[Tensor, "row d_in"]) -> Float[Tensor, " d_in"]:
    """Return the point of least sum of distances, argmin_y sum_i ||x_i - y||; a few huge rows hardly move it.

    Weiszfeld's step y <- sum_i x_i / d_i over sum_i 1 / d_i, d_i = ||x_i - y||, over the rows that are not y itself.
    Where m rows are (a mean can be one of them), the step is shortened by m / ||sum_i (x_i - y) / d_i||, to nothing
    where y is the median already.

    Source: Vardi & Zhang 2000, "The multivariate L1-median and associated data depth", eq. 2.6; as a start for `b_dec`
    Gao et al. 2024, App. A.1.

    Example:
        >>> round(float(geometric_median(torch.tensor([[0.0], [1.0], [1000.0]]))), 3)
        1.0
    """
    center = acts.mean(dim=0)
    for _ in range(MAX_STEPS):
        offsets = acts - center
        distances = offsets.norm(dim=1)
        apart = distances > RELATIVE_TOLERANCE**2 * distances.mean()
        weights = torch.where(apart, 1 / distances.clamp_min(torch.finfo(acts.dtype).tiny), 0.0)
        pull = weights @ offsets
        n_here = int((~apart).sum())
        length = max(0.0, 1 - n_here / float(pull.norm().clamp_min(torch.finfo(acts.dtype).tiny))) if n_here else 1.0
        step = length * pull / weights.sum().clamp_min(torch.finfo(acts.dtype).tiny)
        center = center + step
        if step.norm() <= RELATIVE_TOLERANCE * distances.mean():
            break
    return center


CENTERS: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean, "geometric-median": geometric_median}
