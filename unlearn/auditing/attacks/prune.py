"""Pruning: set the smallest weights of every matrix to zero, 20 % and 40 % of them."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.attacks.common import compare, result, with_matrices
from unlearn.auditing.context import AuditContext

FRACTIONS = (0.2, 0.4)


def pruned(weight: Float[Tensor, "out in"], *, frac: float) -> Float[Tensor, "out in"]:
    """Return the weight without its smallest entries by magnitude.

    Example:
        >>> pruned(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), frac=0.5)
        tensor([[ 0., -3.],
                [ 2.,  0.]])
    """
    n_cut = int(frac * weight.numel())
    if n_cut == 0:
        return weight
    limit = weight.detach().abs().flatten().kthvalue(n_cut).values
    return torch.where(weight.abs() > limit, weight, torch.zeros_like(weight))


def attack_prune(context: AuditContext) -> AttackResult:
    """Return recall of the pruned models."""
    settings = []
    for frac in FRACTIONS:
        lm = with_matrices(context.after, partial(pruned, frac=frac))
        settings.append(compare(context, f"{frac:.0%} of the weights", lm))
    return result(settings)
