"""Muon: momentum whose matrix is made orthogonal before it is a step.

    M <- m M + (1 - m) G;  U = orthogonalised(m M + (1 - m) G);  W <- (1 - lr decay) W - 0.2 sqrt(max(A, B)) lr U

As `torch.optim.Muon` does it with `match_rms_adamw` and Nesterov momentum, but in a number format that can be chosen:
torch's own multiplies in bfloat16, which on a processor without instructions for it takes most of a training.
Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose slope at 0 is steep and whose values stay near 1
ITERATIONS = 5
MOMENTUM = 0.95
EPS = 1e-7  # under the norm of an update of zeros


def orthogonalised(update: Float[Tensor, "n_rows n_columns"], dtype: torch.dtype) -> Float[Tensor, "n_rows n_columns"]:
    """Return the update with all singular values near one (0.7 to 1.2), by Newton-Schulz iterations in `dtype`.

    X <- a X + (b A + c A A) X with A = X X', begun at X = update / its Frobenius norm
    """
    a, b, c = COEFFICIENTS
    is_tall = update.shape[0] > update.shape[1]
    x = update.to(dtype).T if is_tall else update.to(dtype, copy=True)
    x = x / x.norm().clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay, for matrices alone.

    Args:
        matrices: What is trained, each of two dimensions.
        lr: Step size, comparable with AdamW's.
        weight_decay: Share of the weights taken away in a step, times the step size.
        dtype: Number format of the orthogonalisation.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "dtype": dtype})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step with the gradients that lie at the matrices; `closure`, if given, makes them first."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for matrix in (p for p in group["params"] if p.grad is not None):
                moment = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                moment.lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonalised(matrix.grad.lerp(moment, MOMENTUM), group["dtype"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))
        return loss
