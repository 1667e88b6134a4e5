"""TopK SAE with the AuxK loss. Source: Gao et al. 2024 (arXiv:2406.04093), sec. 2.3 and App. A.2.

latents = TopK(pre_acts), negative ones among the k set to zero.
loss = FVU(x, x_hat) + alpha * AuxK, AuxK = FVU(e, e_hat): the `k_aux = d_in // 2` strongest *dead* latents
reconstruct the error e = x - x_hat (detached, b_dec not added again). Its gradient reaches encoder and decoder.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.errors import ConfigError
from sae_train.saes.base import LossTerms, Sae, StepContext
from sae_train.saes.sparse_ops import sparse_decode


class TopKSae(Sae):
    """Keeps the `k` largest latents of every token."""

    arch: ClassVar[str] = "topk"

    def __init__(self, d_in: int, d_sae: int, *, k: int) -> None:
        super().__init__(d_in, d_sae)
        if not 1 <= k <= d_sae:
            raise ConfigError("k does not fit the SAE", got=f"k {k} (--k), d_sae {d_sae}", expected="1 <= k <= d_sae")
        self.k = k

    def top_k(self, pre_acts: Float[Tensor, "batch d_sae"]) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
        """Return values (not below zero) and indices of the k largest pre-activations."""
        values, indices = torch.topk(pre_acts, self.k, dim=1, sorted=False)
        return values.relu(), indices

    def activate(self, pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Keep the k largest, zero the others."""
        values, indices = self.top_k(pre_acts)
        return torch.zeros_like(pre_acts).scatter_(1, indices, values)

    def forward(self, acts: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction, decoding only the k latents that are on."""
        values, indices = self.top_k(self.pre_acts(acts))
        return sparse_decode(values, indices, self.W_dec) + self.b_dec

    def training_loss(self, acts: Float[Tensor, "batch d_in"], context: StepContext) -> LossTerms:
        """Return FVU plus the weighted AuxK term."""
        pre_acts = self.pre_acts(acts)
        values, indices = self.top_k(pre_acts)
        recon = sparse_decode(values, indices, self.W_dec) + self.b_dec
        error = acts - recon
        fvu = error.square().sum() / _variance(acts)
        auxk = self._auxk(pre_acts, error.detach(), context)
        counts = torch.zeros(self.d_sae, dtype=torch.int32, device=acts.device)
        fired = counts.index_add_(0, indices.flatten(), (values > 0).flatten().int()) > 0
        return LossTerms(fvu + context.auxk_alpha * auxk, {"fvu": fvu.detach(), "auxk": auxk.detach()}, fired)

    def _auxk(self, pre_acts: Tensor, error: Tensor, context: StepContext) -> Tensor:
        """Let the strongest dead latents reconstruct what the living ones left over."""
        n_dead = int(context.is_dead.sum())  # one host sync a step; the number sizes the arrays below
        if n_dead == 0:
            return pre_acts.new_zeros(())
        k_aux = min(self.d_in // 2, n_dead)
        dead_pre_acts = pre_acts.masked_fill(~context.is_dead, -torch.inf)
        values, indices = torch.topk(dead_pre_acts, k_aux, dim=1, sorted=False)
        error_hat = sparse_decode(values.relu(), indices, self.W_dec)
        return (error - error_hat).square().sum() / _variance(error)

    def saelens_config(self) -> dict[str, Any]:
        """Return SAELens' fields for `topk`."""
        return {"architecture": "topk", "k": self.k, "rescale_acts_by_decoder_norm": False}


def _variance(acts: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
    """Return sum ||x - mean(x)||^2 of a batch, kept off zero."""
    return (acts - acts.mean(dim=0)).square().sum().clamp_min(1e-12)
