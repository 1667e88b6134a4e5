"""Matryoshka BatchTopK SAE. Source: Bussmann, Nabeshima, Karvonen & Nanda 2025 (arXiv:2503.17547).

The first m latents have to reconstruct on their own, for nested m_1 < ... < m_n = d_sae, which keeps general features
whole in the early ones. The latents are those of BatchTopK over all d_sae:

    x_hat_i = latents[:m_i] W_dec[:m_i] + b_dec        loss = mean_i FVU(x, x_hat_i) + alpha * AuxK(x - x_hat_n)

A mean over prefixes, not a sum: to Adam the factor is nothing, and the loss stays comparable with BatchTopK's.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.saes.base import Reconstruction
from sae_train.saes.batch_topk import BatchTopKSae, support_of
from sae_train.saes.sparse_ops import Support, support_decode
from sae_train.saes.whole_batch import WholeBatch


def prefix_sizes(fractions: tuple[float, ...], d_sae: int) -> list[int]:
    """Return the numbers of latents that shares of `d_sae` stand for, at least one, equal ones once.

    Example:
        >>> prefix_sizes((1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), 64), prefix_sizes((1 / 16, 1 / 8, 1.0), 8)
        ([4, 8, 16, 32, 64], [1, 8])
    """
    return sorted({max(1, round(frac * d_sae)) for frac in fractions})


class MatryoshkaSae(BatchTopKSae):
    """BatchTopK whose prefixes reconstruct on their own."""

    arch: ClassVar[str] = "matryoshka"
    config_fields: ClassVar[tuple[str, ...]] = ("k", "matryoshka_prefixes")
    prefixes: Int[Tensor, " prefix"]

    def __init__(self, d_in: int, d_sae: int, *, k: int, matryoshka_prefixes: tuple[float, ...]) -> None:
        super().__init__(d_in, d_sae, k=k)
        # Not persistent: it follows from the config, and a checkpoint holds what changes.
        self.register_buffer("prefixes", torch.tensor(prefix_sizes(matryoshka_prefixes, d_sae)), persistent=False)

    def prefix_errors(
        self, centered: Float[Tensor, "batch d_out"], values: Float[Tensor, " n_on"], support: Support
    ) -> Float[Tensor, "prefix batch d_out"]:
        """Return x - x_hat_i of every prefix: a block adds to what the blocks before it have left over."""
        n_tokens, n_blocks = len(centered), len(self.prefixes)
        groups = support.rows * n_blocks + torch.bucketize(support.latents, self.prefixes, right=True)
        by_block = support_of(support.latents, groups, n_tokens * n_blocks, self.d_sae, alike=support)
        added = support_decode(values, by_block, self.W_dec)
        return centered - added.view(n_tokens, n_blocks, self.d_out).cumsum(dim=1).transpose(0, 1)

    def reconstruct(
        self,
        centered: Float[Tensor, "batch d_out"],
        values: Float[Tensor, " n_on"],
        support: Support,
        batch: WholeBatch,
    ) -> Reconstruction:
        """Return the mean FVU over prefixes, and the error of all latents together."""
        moved = self.b_dec.detach() - self.b_dec  # zero, and the gradient that b_dec has through every error
        errors = self.prefix_errors(centered + moved, values, support)
        fvus = errors.square().sum(dim=(1, 2)) / batch.variance
        terms = {"fvu": fvus[-1].detach(), "fvu_first_prefix": fvus[0].detach()}
        return Reconstruction(fvus.mean(), errors[-1], terms)
