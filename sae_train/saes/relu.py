"""ReLU SAE with an L1 penalty weighted by decoder norm. Source: Anthropic, "Circuits Updates - April 2024".

loss = (1/d_in) mean_tokens [ ||x - x_hat||^2 + lambda * sum_j z_j ||W_dec[j]|| ], inputs scaled to mean norm
sqrt(d_in), lambda growing linearly from zero over the first `frac_l1_warmup` of the run. Both terms are means over
tokens: divided into micro batches, the loss is the same.

With `relu_p_end` below 1 the sum is of powers that fall during the run (`losses/p_annealing.py`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sae_train.saes.base import LossTerms, Sae, StepContext
from sae_train.saes.losses.frequency import frequency_penalty
from sae_train.saes.losses.p_annealing import PAnnealing


class ReluSae(Sae):
    """latents = ReLU(pre_acts).

    Args:
        d_in: Width of the activations.
        d_sae: Number of latents.
        relu_p_end: Power that the sparsity term ends with. It means nothing in an SAE that is only read.
    """

    arch: ClassVar[str] = "relu"
    config_fields: ClassVar[tuple[str, ...]] = ("relu_p_end",)

    def __init__(self, d_in: int, d_sae: int, *, relu_p_end: float = 1.0) -> None:
        super().__init__(d_in, d_sae)
        self.annealing = PAnnealing(relu_p_end) if relu_p_end < 1 else None

    def activate(self, pre_acts: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        """Zero the negative ones."""
        return pre_acts.relu()

    def training_loss(self, acts: Float[Tensor, "batch d_row"], context: StepContext) -> LossTerms:
        """Return squared error plus the weighted sparsity term, both per token and dimension."""
        x, target = self.input_of(acts), self.target_of(acts)
        batch = context.batch_of(target)
        latents, n_tokens = self.encode(x), batch.n_tokens
        n_numbers = n_tokens * self.d_out
        error = (target - self.recon_of(x, latents)).square().sum(dim=1).sum() / n_numbers
        is_on, weighted = latents.detach() > 0, latents * self.W_dec.norm(dim=1)
        if self.annealing is None:
            sparsity = weighted.sum(dim=1).sum() / n_numbers
            terms = {"l1": sparsity.detach()}
        else:
            now, after = (total / n_numbers for total in self.annealing.sums(weighted, is_on, context))
            sparsity = self.annealing.factor * now
            terms = {"lp": now.detach(), "lp_next": after}
        terms = {"mse": error.detach(), **terms, "l0": is_on.sum(dtype=acts.dtype) / n_tokens}
        loss = error + context.l1_coefficient * context.warmup * sparsity
        counts = is_on.sum(dim=0)
        often = frequency_penalty(latents, counts, context, batch, self.d_out)
        return LossTerms(loss, terms, counts > 0).plus("frequency", context.frequency_coefficient, often)

    def after_step(self, context: StepContext, terms: dict[str, Tensor]) -> None:
        """Set the weight of the sparsity term for the next power."""
        if self.annealing is not None:
            self.annealing.after_step(terms["lp"], terms["lp_next"], context)

    def saelens_config(self) -> dict[str, Any]:
        """Return SAELens' fields for `standard`."""
        return {"architecture": "standard"}
