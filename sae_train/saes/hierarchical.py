"""Hierarchical TopK SAE: one SAE for several k. Source: Balagansky et al. 2025 (arXiv:2505.24473).

The latents are TopK's. The j strongest of a token have to reconstruct on their own, for nested j_1 < ... < j_n = k:

    x_hat_j = (the j strongest latents) W_dec + b_dec        loss = mean_j FVU(x, x_hat_j) + alpha * AuxK(x - x_hat_k)

The source takes the mean over every j or a subset; here it is the shares of k in `hierarchical_shares`. To read the SAE
at a smaller j, set its `k`; nothing else changes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.saes.base import Reconstruction
from sae_train.saes.batch_topk import support_of
from sae_train.saes.losses.whole_batch import WholeBatch
from sae_train.saes.matryoshka import prefix_sizes
from sae_train.saes.sparse_ops import Support, support_decode
from sae_train.saes.topk import TopKSae
from sae_train.saes.topk_search.candidates import Found


class HierarchicalTopKSae(TopKSae):
    """TopK whose strongest latents reconstruct on their own."""

    arch: ClassVar[str] = "hierarchical-topk"
    config_fields: ClassVar[tuple[str, ...]] = ("k", "hierarchical_shares")
    levels: Int[Tensor, " level"]

    def __init__(self, d_in: int, d_sae: int, *, k: int, hierarchical_shares: tuple[float, ...] = (1.0,)) -> None:
        super().__init__(d_in, d_sae, k=k)
        # Not persistent: it follows from the config, and a checkpoint holds what changes.
        self.register_buffer("levels", torch.tensor(prefix_sizes(hierarchical_shares, k)), persistent=False)

    def search(self, centered: Float[Tensor, "batch d_in"]) -> Found:
        """Return the k largest pre-activations of every row, the largest first."""
        found = super().search(centered)
        values, order = found.values.sort(dim=1, descending=True)
        return Found(values, found.indices.gather(1, order))

    def reconstruct(
        self, target: Float[Tensor, "batch d_out"], values: Float[Tensor, " n_on"], support: Support, batch: WholeBatch
    ) -> Reconstruction:
        """Return the mean FVU over the levels, and the error of all k latents together."""
        moved = self.b_dec.detach() - self.b_dec  # zero, and the gradient that b_dec has through every error
        n_tokens, n_levels = len(target), len(self.levels)
        rank = torch.arange(self.k, device=target.device).repeat(n_tokens)
        groups = support.rows * n_levels + torch.bucketize(rank, self.levels, right=True)
        by_level = support_of(support.latents, groups, n_tokens * n_levels, self.d_sae, alike=support)
        added = support_decode(values, by_level, self.W_dec).view(n_tokens, n_levels, self.d_out)
        errors = (target + moved) - added.cumsum(dim=1).transpose(0, 1)
        fvus = errors.square().sum(dim=(1, 2)) / batch.variance
        terms = {"fvu": fvus[-1].detach(), "fvu_first_level": fvus[0].detach()}
        return Reconstruction(fvus.mean(), errors[-1], terms)
