"""Matryoshka BatchTopK SAE. Source: Bussmann, Nabeshima, Karvonen & Nanda 2025 (arXiv:2503.17547).

The first m latents have to reconstruct on their own, for nested m_1 < ... < m_n = d_sae, which keeps general features
whole in the early ones. The latents are those of BatchTopK over all d_sae:

    x_hat_i = latents[:m_i] W_dec[:m_i] + b_dec        loss = sum_i w_i FVU(x, x_hat_i) + alpha * AuxK(x - x_hat_n)

A mean over prefixes (sum of w_i is 1), not a sum: to Adam the factor is nothing, and the loss stays comparable with
BatchTopK's. By default the w_i are equal. A prefix that has too few latents for what is in the data mixes correlated
features into the latents that it has (hedging); large prefixes split and absorb instead. Weights that balance the two
(`matryoshka_weights`) are the proposal of Chanin, Dulka & Garriga-Alonso 2025 (arXiv:2505.11756).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.saes.base import Reconstruction
from sae_train.saes.batch_topk import BatchTopKSae, support_of
from sae_train.saes.losses.whole_batch import WholeBatch
from sae_train.saes.sparse_ops import Support, support_decode


def prefix_sizes(fractions: tuple[float, ...], d_sae: int) -> list[int]:
    """Return the numbers of latents that shares of `d_sae` stand for, at least one, equal ones once.

    Example:
        >>> prefix_sizes((1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), 64), prefix_sizes((1 / 16, 1 / 8, 1.0), 8)
        ([4, 8, 16, 32, 64], [1, 8])
    """
    return sorted({max(1, round(frac * d_sae)) for frac in fractions})


def prefix_weights(fractions: tuple[float, ...], weights: tuple[float, ...], d_sae: int) -> list[float]:
    """Return the weight of each of `prefix_sizes`, one in all; those of shares that give one size are added.

    Example:
        >>> prefix_weights((1 / 4, 1 / 2, 1.0), (3.0, 0.0, 1.0), 64), prefix_weights((1 / 2, 1.0), (), 64)
        ([0.75, 0.0, 0.25], [0.5, 0.5])
    """
    sizes = prefix_sizes(fractions, d_sae)
    if not weights:
        return [1 / len(sizes)] * len(sizes)
    totals = dict.fromkeys(sizes, 0.0)
    for frac, weight in zip(fractions, weights, strict=True):
        totals[prefix_sizes((frac,), d_sae)[0]] += weight
    return [total / sum(weights) for total in totals.values()]


class MatryoshkaSae(BatchTopKSae):
    """BatchTopK whose prefixes reconstruct on their own."""

    arch: ClassVar[str] = "matryoshka"
    config_fields: ClassVar[tuple[str, ...]] = ("k", "matryoshka_prefixes", "matryoshka_weights")
    prefixes: Int[Tensor, " prefix"]
    weights: Float[Tensor, " prefix"]

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        k: int,
        matryoshka_prefixes: tuple[float, ...],
        matryoshka_weights: tuple[float, ...] = (),
    ) -> None:
        super().__init__(d_in, d_sae, k=k)
        self.is_weighted = bool(matryoshka_weights)
        sizes = prefix_sizes(matryoshka_prefixes, d_sae)
        # Not persistent: they follow from the config, and a checkpoint holds what changes.
        self.register_buffer("prefixes", torch.tensor(sizes), persistent=False)
        weights = prefix_weights(matryoshka_prefixes, matryoshka_weights, d_sae)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

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
        """Return the weighted mean of FVU over prefixes, and the error of all latents together."""
        moved = self.b_dec.detach() - self.b_dec  # zero, and the gradient that b_dec has through every error
        errors = self.prefix_errors(centered + moved, values, support)
        fvus = errors.square().sum(dim=(1, 2)) / batch.variance
        terms = {"fvu": fvus[-1].detach(), "fvu_first_prefix": fvus[0].detach()}
        loss = fvus @ self.weights.to(fvus.dtype) if self.is_weighted else fvus.mean()
        return Reconstruction(loss, errors[-1], terms)
