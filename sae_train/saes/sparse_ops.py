"""Sparse encode and decode, with gradients that never build (batch, d_sae) or (batch, k, d_in) arrays.

With n_on latents on in a batch (k each), every product below costs 2 n_on d_in operations:

    values[i] = x[row i] . W_enc[:, latent i] + b_enc[latent i]        recon[row] = sum_i values[i] W_dec[latent i]

The sums over the rows in which a latent is on (gradients of W_enc, W_dec, b_enc) are the same kind of sum as decoding,
over the same entries sorted by latent. No atomic additions: the same numbers come out every time, on CUDA too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


class ByLatent(NamedTuple):
    """The entries of a `Support` sorted by latent.

    Attributes:
        order: Their numbers in the support's own order.
        rows: The row of each.
        starts: Where each latent's entries begin.
        latents: The latent of each.
    """

    order: Int[Tensor, " n_on"]
    rows: Int[Tensor, " n_on"]
    starts: Int[Tensor, " d_sae"]
    latents: Int[Tensor, " n_on"]


@dataclass(frozen=True, eq=False)
class Support:
    """Which latents are on in which rows of a batch: a sparse matrix without its values.

    Attributes:
        latents: The latents that are on, row by row.
        starts: Where each row's begin.
        d_sae: Number of latents.
        known_rows: The row of each entry, where the caller knows it.
        alike: A support of the same latents in the same order, in other rows: sorted once for both.
    """

    latents: Int[Tensor, " n_on"]
    starts: Int[Tensor, " batch"]
    d_sae: int
    known_rows: Int[Tensor, " n_on"] | None = None
    alike: Support | None = None

    @classmethod
    def of_rows(cls, indices: Int[Tensor, "batch k"], d_sae: int) -> Support:
        """Return the support in which every row has the same number of latents."""
        batch, k = indices.shape
        return cls(indices.flatten(), torch.arange(0, batch * k, k, device=indices.device), d_sae)

    @cached_property
    def rows(self) -> Int[Tensor, " n_on"]:
        """Return the row of each entry."""
        if self.known_rows is not None:
            return self.known_rows
        n_on, device = len(self.latents), self.latents.device
        counts = self.starts.diff(append=torch.full((1,), n_on, device=device))
        return torch.repeat_interleave(torch.arange(len(counts), device=device), counts, output_size=n_on)

    @cached_property
    def by_latent(self) -> ByLatent:
        """Return the entries sorted by latent, inside a latent by row."""
        if self.alike is not None:
            return self.alike.by_latent._replace(rows=self.rows[self.alike.by_latent.order])
        ordered, order = torch.sort(self.latents.int(), stable=True)  # half the bytes, half the time
        starts = torch.searchsorted(ordered, torch.arange(self.d_sae, dtype=torch.int32, device=ordered.device))
        return ByLatent(order, self.rows[order], starts, ordered.long())

    def counts(self, values: Float[Tensor, " n_on"]) -> Int[Tensor, " d_sae"]:
        """Return in how many rows each latent fires: the entries with a value above zero, int32."""
        # Not the starts of `by_latent`: those are there only once a gradient is asked for, and count what is not on.
        counts = torch.zeros(self.d_sae, dtype=torch.int32, device=values.device)
        return counts.index_add_(0, self.latents, (values.detach() > 0).int())


def sparse_encode(
    centered: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    support: Support,
    *,
    values: Float[Tensor, " n_on"] | None = None,
    b_dec: Float[Tensor, " d_in"] | None = None,
) -> Float[Tensor, " n_on"]:
    """Return the pre-activations of a support.

    Args:
        centered: The SAE's input with `b_dec` already subtracted.
        W_enc: The encoder; fastest where its columns lie together in memory.
        b_enc: Its bias.
        support: Which pre-activations.
        values: What comes out, where it is known already; gradients are the same.
        b_dec: Receives -(sum over rows of centered's gradient), which is W_enc times b_enc's gradient: with it, a
            detached `centered` spares the gradient of every row.
    """
    return _Encode.apply(centered, W_enc, b_enc, b_dec, support, values)


def support_decode(
    values: Float[Tensor, " n_on"],
    support: Support,
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    b_dec: Float[Tensor, " d_in"] | None = None,
) -> Float[Tensor, "batch d_in"]:
    """Return, for each row, the sum of its latents' decoder rows weighted by their values.

    `b_dec` is not added, but receives the gradient as if it were: for comparison with an input from which it is
    subtracted already, and detached.
    """
    return _Decode.apply(values, W_dec, b_dec, support)


def sparse_decode(
    values: Float[Tensor, "batch k"],
    indices: Int[Tensor, "batch k"],
    W_dec: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, "batch d_in"]:
    """Return sum_j values[:, j] * W_dec[indices[:, j]]: 2 k d_in operations a token, no (batch, k, d_in) array.

    Gradients reach the values and the rows of W_dec that were used.

    Example:
        >>> W = torch.eye(3)
        >>> sparse_decode(torch.tensor([[2.0, 5.0]]), torch.tensor([[2, 0]]), W).tolist()
        [[5.0, 0.0, 2.0]]
    """
    return support_decode(values.flatten(), Support.of_rows(indices, len(W_dec)), W_dec)


def row_dots(
    left: Float[Tensor, "batch d_in"], right: Float[Tensor, "d_sae d_in"], support: Support
) -> Float[Tensor, " n_on"]:
    """Return left[row] . right[latent] for each entry of a support: a dense product, sampled.

    `torch.sparse.sampled_addmm` is the same in public and takes three times as long on CPU. This operator is what
    `F.embedding_bag` itself calls for the gradient of its weights (the decoder is linear in them). It takes the entries
    in any order; by latent, each row of `right`, the larger matrix, is read once: half the time.
    """
    sums, no_padding = 0, -1
    order, rows, starts, latents = support.by_latent
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.contiguous(), right.contiguous(), latents, starts, rows, sums, no_padding
    )
    return torch.empty_like(dots).index_copy_(0, order, dots)


def dots_of_rows(left: Float[Tensor, "row d_in"], right: Float[Tensor, "row d_in"]) -> Float[Tensor, " row"]:
    """Return left[row] . right[row]: one pass on CPU, where `torch.linalg.vecdot` writes all products first.

    Example:
        >>> dots_of_rows(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).tolist()
        [11.0]
    """
    if left.device.type != "cpu":
        return torch.linalg.vecdot(left, right)
    each, sums, no_padding = torch.arange(len(left)), 0, -1
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(left, right, each, each, each, sums, no_padding)


def sums_by_latent(
    weights: Float[Tensor, " n_on"], table: Float[Tensor, "batch d_in"], support: Support
) -> Float[Tensor, "d_sae d_in"]:
    """Return, for each latent, the sum of table[row] * weight over the rows in which it is on; zeros where in none."""
    order, rows, starts, _ = support.by_latent
    return F.embedding_bag(rows, table.contiguous(), starts, mode="sum", per_sample_weights=weights[order])


class _Decode(torch.autograd.Function):
    """recon[row] = sum of values[i] * W_dec[latent i] over the entries i of the row."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, b_dec: Tensor | None, support: Support) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.support = support
        return F.embedding_bag(support.latents, W_dec, support.starts, mode="sum", per_sample_weights=values)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides its parameters
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        values, W_dec = ctx.saved_tensors
        grad_values = row_dots(grad, W_dec, ctx.support) if ctx.needs_input_grad[0] else None
        grad_W_dec = sums_by_latent(values, grad, ctx.support) if ctx.needs_input_grad[1] else None
        return grad_values, grad_W_dec, grad.sum(dim=0) if ctx.needs_input_grad[2] else None, None


class _Encode(torch.autograd.Function):
    """values[i] = centered[row i] . W_enc[:, latent i] + b_enc[latent i]."""

    @staticmethod
    def forward(
        ctx: Any,
        centered: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
        support: Support,
        values: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(centered, W_enc)
        ctx.support = support
        if values is not None:
            return values.clone()  # an output of its own, which autograd may mark
        return row_dots(centered, W_enc.T, support) + b_enc[support.latents]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  as above
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        centered, W_enc = ctx.saved_tensors
        support, needs = ctx.support, ctx.needs_input_grad
        grad_centered = support_decode(grad, support, W_enc.T.contiguous()) if needs[0] else None
        grad_W_enc = sums_by_latent(grad, centered, support).T if needs[1] else None
        order, _, starts, _ = support.by_latent
        grad_b_enc = F.embedding_bag(order, grad.unsqueeze(1).contiguous(), starts, mode="sum").squeeze(1)
        grad_b_dec = -(W_enc @ grad_b_enc) if needs[3] else None
        return grad_centered, grad_W_enc, grad_b_enc if needs[2] else None, grad_b_dec, None, None
