"""ReLU SAE with an L1 penalty weighted by decoder norm. Source: Anthropic, "Circuits Updates - April 2024".

loss = (1/d_in) mean_tokens [ ||x - x_hat||^2 + lambda * sum_j z_j ||W_dec[j]|| ], inputs scaled to mean norm
sqrt(d_in), lambda growing linearly from zero over the first `frac_l1_warmup` of the run. Both terms are means over
tokens: divided into micro batches, the loss is the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sae_train.saes.base import LossTerms, Sae, StepContext
from sae_train.saes.losses.frequency import frequency_penalty


class ReluSae(Sae):
    """latents = ReLU(pre_acts)."""

    arch: ClassVar[str] = "relu"

    def activate(self, pre_acts: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        """Zero the negative ones."""
        return pre_acts.relu()

    def training_loss(self, acts: Float[Tensor, "batch d_row"], context: StepContext) -> LossTerms:
        """Return squared error plus the weighted L1 term, both per token and dimension."""
        x, target = self.input_of(acts), self.target_of(acts)
        batch = context.batch_of(target)
        latents, n_tokens = self.encode(x), batch.n_tokens
        n_numbers = n_tokens * self.d_out
        error = (target - self.recon_of(x, latents)).square().sum(dim=1).sum() / n_numbers
        l1 = (latents * self.W_dec.norm(dim=1)).sum(dim=1).sum() / n_numbers
        loss = error + context.l1_coefficient * context.warmup * l1
        is_on = latents.detach() > 0
        terms = {"mse": error.detach(), "l1": l1.detach(), "l0": is_on.sum(dtype=acts.dtype) / n_tokens}
        counts = is_on.sum(dim=0)
        often = frequency_penalty(latents, counts, context, batch, self.d_out)
        return LossTerms(loss, terms, counts > 0).plus("frequency", context.frequency_coefficient, often)

    def saelens_config(self) -> dict[str, Any]:
        """Return SAELens' fields for `standard`."""
        return {"architecture": "standard"}
