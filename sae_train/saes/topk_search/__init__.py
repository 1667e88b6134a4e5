"""The k largest pre-activations of every row: `torch.topk`, or a faster search with the same result.

    top_k(centered, W_enc, b_enc, k) = torch.topk(centered @ W_enc + b_enc, k)        in no order

`float32` multiplies in the weights' own precision, `int8` in whole numbers (on CPU), `bfloat16` in that. The faster
searches choose half as many candidates again as are wanted, compute those in the weights' precision and keep the k
largest, so values are exact. On CPU so is the choice: how far a row's candidates were off is known then, and rows in
which a latent that was left out could come near the k-th are searched again in full. On CUDA, where to look would be to
wait, a latent that is no candidate is missed; `auto` takes bfloat16 there only if hardly one of a sample is.

    memory.py        some rows at a time, in the same memory
    candidates.py    the candidates, and the k largest of them (on CPU also: in which rows these are surely the largest)
    strongest.py     the strongest of many scores in every row, on CPU
    int8_product.py  scores in 8-bit whole numbers
    choice.py        which search is best here
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.machine.arithmetic import is_fast
from sae_train.saes.topk_search.candidates import (
    Found,
    among_candidates,
    candidates_pay,
    exact_largest,
    n_candidates_for,
)
from sae_train.saes.topk_search.memory import Memory
from sae_train.saes.topk_search.strongest import Strongest


def plain_top_k(
    centered: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    memory: Memory,
) -> Found:
    """Return what `top_k` is by definition: all pre-activations, some rows at a time, and `torch.topk`."""
    found = [Found(centered.new_empty(0, k), torch.empty(0, k, dtype=torch.int64, device=centered.device))]
    for rows, room in memory.parts(len(centered), len(b_enc), centered.dtype, centered.device):
        pre_acts = torch.addmm(b_enc, centered[rows], W_enc, out=room)
        found.append(Found(*torch.topk(pre_acts, k, dim=1, sorted=False)))
    return Found(*map(torch.cat, zip(*found, strict=True)))


@torch.no_grad()
def top_k(
    centered: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    *,
    dtype: str = "float32",
    memory: Memory | None = None,
) -> Found:
    """Return the k largest of `centered @ W_enc + b_enc` in every row, without gradients; of those below zero, any.

    Args:
        centered: The SAE's input with `b_dec` already subtracted.
        W_enc, b_enc: The encoder.
        k: How many.
        dtype: One of `config.SEARCH_DTYPES` but `auto`: the number format of the search, see the module.
        memory: Buffer for pre-activations; callers that search repeatedly keep it.
    """
    on_cpu, d_sae, memory = centered.device.type == "cpu", len(b_enc), memory or Memory()
    if torch.is_autocast_enabled(centered.device.type):
        dtype = "bfloat16"
    if dtype == "bfloat16" and not is_fast(torch.bfloat16, centered.device):
        dtype = "float32"
    if not candidates_pay(k, d_sae) or (dtype == "float32" and not on_cpu):
        return plain_top_k(centered, W_enc, b_enc, k, memory)
    if not on_cpu:
        x, W, b = (t.to(torch.bfloat16) for t in (centered, W_enc, b_enc))
        # The ceiling is of no use here: to ask which rows are sure would be to wait for the device.
        near = Strongest(*plain_top_k(x, W, b, n_candidates_for(k), memory), ceiling=b_enc.new_full((), torch.inf))
        return exact_largest(near, centered, W_enc, b_enc, k).found
    found, is_sure = among_candidates(centered, W_enc, b_enc, k, dtype, memory)
    # What candidates may have missed is searched in full, so that the result is that of `torch.topk`.
    again = (~is_sure).nonzero().flatten()
    for mine, theirs in zip(found, plain_top_k(centered[again], W_enc, b_enc, k, memory), strict=True):
        mine.index_copy_(0, again, theirs)
    return found
