"""Sparse decoding: k rows of the decoder per token instead of a dense product over all latents."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def sparse_decode(
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    W_dec: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, "batch d_in"]:
    """Return sum_j values[:, j] * W_dec[indices[:, j]]: 2 k d_in operations a token, no (batch, k, d_in) array.

    Gradients reach the values and the rows of W_dec that were used.

    Example:
        >>> import torch
        >>> W = torch.eye(3)
        >>> sparse_decode(torch.tensor([[2.0, 5.0]]), torch.tensor([[2, 0]]), W).tolist()
        [[5.0, 0.0, 2.0]]
    """
    return F.embedding_bag(indices, W_dec, per_sample_weights=values, mode="sum")
