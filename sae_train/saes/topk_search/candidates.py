"""Top-k in two stages: candidates from a faster product, then their k largest by exact values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_train.saes.sparse_ops import Support, row_dots
from sae_train.saes.topk_search.int8_product import Int8Product
from sae_train.saes.topk_search.memory import Memory
from sae_train.saes.topk_search.strongest import FloatScores, Strongest, strongest

CANDIDATES_PAY = 8  # latents for each candidate: with fewer, all are searched
SURE = 3.0  # standard deviations of a row's error that lie between the k-th and what was left out


class Found(NamedTuple):
    """The k largest pre-activations of each row, in no order."""

    values: Float[Tensor, "batch k"]
    indices: Int[Tensor, "batch k"]


class Checked(NamedTuple):
    """The k largest of a row's candidates, and whether they are the k largest of all.

    Attributes:
        found: Values and indices.
        is_sure: In which rows no latent that is no candidate can be among the k largest.
    """

    found: Found
    is_sure: Bool[Tensor, " batch"]


def n_candidates_for(k: int) -> int:
    """Return the number of candidates: 1.5 k, and at least k + 8.

    Example:
        >>> n_candidates_for(32), n_candidates_for(64), n_candidates_for(4)
        (48, 96, 12)
    """
    # On real activations (d_in 640, d_sae 5,120, bfloat16 scores) 40 candidates held all of the 32 largest.
    return k + max(8, k // 2)


def candidates_pay(k: int, d_sae: int) -> bool:
    """Return whether there are enough latents for candidates to save work."""
    return d_sae >= CANDIDATES_PAY * n_candidates_for(k)


@torch.no_grad()
def among_candidates(
    centered: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    dtype: str,
    memory: Memory,
) -> Checked:
    """Return the k largest of candidates chosen in `dtype`, on CPU."""
    near = _candidates(centered, W_enc, b_enc, n_candidates_for(k), dtype, memory)
    return exact_largest(near, centered, W_enc, b_enc, k, is_exact=dtype == "float32")


def exact_largest(
    near: Strongest,
    centered: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    *,
    is_exact: bool = False,
) -> Checked:
    """Return the k largest of some candidates by their exact values.

    A row is sure of them if the k-th lies above what was left out by `SURE` times the root mean square of the errors
    of its candidates' scores.

    Args:
        near: The candidates.
        centered, W_enc, b_enc: What the exact values are computed from.
        k: How many.
        is_exact: Whether the candidates' scores are exact already.
    """
    values = near.scores
    if not is_exact:
        support = Support.of_rows(near.latents, len(b_enc))
        values = (row_dots(centered, W_enc.T, support) + b_enc[support.latents]).view(near.latents.shape)
    best = torch.topk(values, k, dim=1, sorted=False)
    # Negative values count as zero in both: such a latent is off, however wrong its score.
    error = (values.relu() - near.scores.relu()).square().mean(dim=1).sqrt()
    is_sure = best.values.amin(dim=1).relu() >= near.ceiling + SURE * error
    return Checked(Found(best.values, near.latents.gather(1, best.indices)), is_sure)


def _candidates(centered: Tensor, W_enc: Tensor, b_enc: Tensor, n: int, dtype: str, memory: Memory) -> Strongest:
    """Return what is nearly the n largest in each row."""
    found, d_sae, device = [], len(b_enc), centered.device
    if dtype == "int8":
        product = Int8Product(centered, W_enc.T, b_enc, n)
        for rows, room in memory.parts(len(centered), d_sae, torch.int32, device):
            found.append(strongest(product.scores(rows, room), n))
    else:
        kind = torch.bfloat16 if dtype == "bfloat16" else centered.dtype
        x, w = centered.to(kind), W_enc.to(kind)
        for rows, room in memory.parts(len(centered), d_sae, kind, device):
            found.append(strongest(FloatScores(torch.mm(x[rows], w, out=room), b_enc), n))
    return found[0] if len(found) == 1 else Strongest(*map(torch.cat, zip(*found, strict=True)))
