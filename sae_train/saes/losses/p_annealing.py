"""p-annealing: a penalty that begins as L1 and ends as a power below one.

    penalty = lambda_p mean_tokens sum_j [ (v_j + eps)^p - eps^p ] / d_out         v_j = z_j ||W_dec[j]||

p is 1 in the first `FRAC_L1` of the run and falls linearly to `p_end`. Below one it presses small values harder than
large ones, so that what stays on shrinks less. With every step of p the weight is set anew so that the penalty of the
batch stays what it was:

    lambda_p' = lambda_p S_p / S_p',        S_p the batch's penalty without its weight, lambda_1 = `l1_coefficient`

The paper changes p and weight ten times, by the means of ten batches each; here both change in every step, which leaves
one number to be kept, the product of all ratios. And eps is ours: without it the slope at zero is infinite, and a few
values near zero decide the gradient, whose length a step divides by (docs/results/sae_recovery.md has both).

S is a mean over tokens: micro batches and processes add up to it.

Source: Karvonen et al. 2024 (arXiv:2408.00113), with the two changes above.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_train.saes.base import StepContext

FRAC_L1 = 0.2  # of the run: latents should have found their directions before p falls
EPSILON = 0.05  # for activations of mean norm sqrt(d_in), where what is on is about as large as one


class PAnnealing(nn.Module):
    """The power of a run's sparsity penalty, and what its weight has been multiplied by so far.

    Args:
        p_end: p at the end of the run, above 0 and below 1.

    Attributes:
        factor: lambda_p / lambda_1, a buffer, so that it is in checkpoints.
    """

    factor: Float[Tensor, ""]

    def __init__(self, p_end: float) -> None:
        super().__init__()
        self.p_end = p_end
        self.register_buffer("factor", torch.ones(()))

    def power(self, progress: float) -> float:
        """Return p at a share of the run.

        Example:
            >>> [round(PAnnealing(0.2).power(share), 3) for share in (0.0, 0.2, 0.6, 1.0)]
            [1.0, 1.0, 0.6, 0.2]
        """
        return 1 - (1 - self.p_end) * min(1.0, max(0.0, (progress - FRAC_L1) / (1 - FRAC_L1)))

    def sums(
        self,
        values: Float[Tensor, "batch d_sae"],
        is_on: Bool[Tensor, "batch d_sae"],
        context: StepContext,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return sum_j [(v_j + eps)^p - eps^p] over these rows, for the p of this step and, a constant, for the next.

        Args:
            values: v, with its gradient.
            is_on: Where a latent is above zero.
            context: The step.
        """
        p, p_next = (self.power(progress) for progress in (context.progress, context.next_progress))
        # Few are on, and powers take long; the others add zero and have no gradient.
        on = torch.masked_select(values, is_on)
        return _sum_of_powers(on, p), _sum_of_powers(on.detach(), p_next)

    @torch.no_grad()
    def after_step(self, now: Tensor, after: Tensor, context: StepContext) -> None:
        """Set the weight anew, given this process's S of the whole step, for its p and for the next one."""
        both = torch.stack([now, after])
        if context.batch is not None:
            context.batch.processes.sum_(both)
        # Nothing is on: there is nothing to keep.
        self.factor *= torch.where(both[1] > 0, both[0] / both[1], 1.0)


def _sum_of_powers(values: Float[Tensor, " n"], p: float) -> Float[Tensor, ""]:
    """Return sum (v + eps)^p - eps^p; at p = 1 without rounding."""
    return values.sum() if p == 1 else (values + EPSILON).pow(p).sum() - len(values) * EPSILON**p
