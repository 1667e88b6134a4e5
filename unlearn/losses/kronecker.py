"""Natural gradients: the change of some matrices that helps most for what it does to everything else.

A matrix W maps inputs k to outputs y = W k. How far a change D of all matrices moves the model's own predictions,

    KL(model || moved model) ~ 1/2 sum_W tr(B D C D^T),   C = E[k k^T],   B = E[d d^T],

d the gradient of the log-likelihood of tokens drawn from the model itself by y: the Fisher information in Kronecker's
approximation (Martens & Grosse 2015, arXiv:1503.05671). Of all changes of one such length, a loss with gradient G falls
fastest along

    D = -B^-1 G C^-1,

which is little where kept inputs lie and where predictions are sensitive, and so needs no retention to speak of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The two factors of one matrix, and their inverses.

    Attributes:
        inputs: C, (d_in, d_in).
        outputs: B, (d_out, d_out).
        inverse_inputs: (C + damping * mean of its diagonal)^-1.
        inverse_outputs: Of B, with its own damping.
    """

    inputs: Tensor
    outputs: Tensor
    inverse_inputs: Tensor
    inverse_outputs: Tensor

    @classmethod
    def of(cls, inputs: Tensor, outputs: Tensor, *, damping: float, output_damping: float) -> Factors:
        """Invert the factors, damped."""
        return cls(
            inputs.float(),
            outputs.float(),
            damped_inverse(inputs, damping).float(),
            damped_inverse(outputs, output_damping).float(),
        )

    def direction(self, gradient: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        """Return B^-1 G C^-1."""
        return self.inverse_outputs @ gradient @ self.inverse_inputs

    def squared_length(self, move: Float[Tensor, "d_out d_in"]) -> float:
        """Return tr(B D C D^T), twice the KL that the move is expected to cost."""
        return float((self.outputs @ move @ self.inputs * move).sum())


def damped_inverse(moment: Float[Tensor, "d d"], damping: float) -> Float[Tensor, "d d"]:
    """Return (M + damping * mean(diag M) * 1)^-1 in float64; of a moment of zeros, zeros.

    Example:
        >>> damped_inverse(torch.diag(torch.tensor([1.0, 3.0])), 0.5).diagonal().tolist()
        [0.5, 0.25]
    """
    # float64: a moment of few rows has directions of next to nothing, which the damping alone keeps apart from zero.
    own = moment.double()
    mean = own.diagonal().mean()
    if not mean > 0:
        return torch.zeros_like(own)
    return torch.linalg.inv(own + damping * mean * torch.eye(len(own), dtype=own.dtype, device=own.device))


def stepped(
    moves: Mapping[str, Tensor], factors: Mapping[str, Factors], length: float
) -> tuple[dict[str, Tensor], float]:
    """Return the moves of all matrices, scaled to a length together, and that scale; no move where there is none."""
    squared = sum(factors[name].squared_length(move) for name, move in moves.items())
    scale = length / squared**0.5 if squared > 0 else 0.0
    return {name: scale * move for name, move in moves.items()}, scale
