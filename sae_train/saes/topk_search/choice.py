"""Choose the fastest top-k search for this machine: by processor, by a timing, and by a sample of rows."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.saes.topk_search import top_k
from sae_train.saes.topk_search.candidates import among_candidates, candidates_pay
from sae_train.saes.topk_search.int8_product import int8_is_fast
from sae_train.saes.topk_search.memory import Memory

MOST_AGAIN = 0.1  # share of rows that may be searched again for int8 to be worth it
SAME_CHOICE = 0.999  # share of the k largest that bfloat16 candidates must contain to be used by themselves
INT8_PAYS = 2**20  # numbers in the encoder from which on the product is most of a search
PROBE_ROWS, PROBE_LATENTS, PROBE_REPEATS = 512, 2048, 3


@torch.no_grad()
def best_dtype(
    centered: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> str:
    """Return the number format to search in: on CPU by processor and sample, on CUDA by a timing and the sample."""
    rows = centered[:PROBE_ROWS]
    if centered.device.type == "cpu":
        # bfloat16 is no choice on CPU: without instructions for it, products are far slower than in float32.
        return "int8" if int8_is_fast() and int8_pays(rows, W_enc, b_enc, k) else "float32"
    part = W_enc[:, :PROBE_LATENTS]
    low_rows, low_part = rows.bfloat16(), part.bfloat16()
    if _seconds(lambda: low_rows @ low_part, rows.device) * 1.5 > _seconds(lambda: rows @ part, rows.device):
        return "float32"  # the candidates' second computation would cost what the product saves
    exact, candidates = (top_k(rows, W_enc, b_enc, k, dtype=name).indices for name in ("float32", "bfloat16"))
    return "bfloat16" if same_choice(exact, candidates) >= SAME_CHOICE else "float32"


def int8_pays(
    rows: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> bool:
    """Return whether the encoder is large enough, and few of the rows would have to be searched again."""
    if W_enc.numel() < INT8_PAYS or not candidates_pay(k, len(b_enc)):
        return False
    is_sure = among_candidates(rows, W_enc, b_enc, k, "int8", Memory()).is_sure
    return float(is_sure.float().mean()) >= 1 - MOST_AGAIN


def same_choice(a: Int[Tensor, "batch k"], b: Int[Tensor, "batch k"]) -> float:
    """Return the share of a's indices that are in the same row of b.

    Example:
        >>> same_choice(torch.tensor([[3, 1]]), torch.tensor([[1, 2]]))
        0.5
    """
    ordered = b.sort(dim=1).values
    place = torch.searchsorted(ordered, a.contiguous()).clamp_max(b.shape[1] - 1)
    return float((ordered.gather(1, place) == a).float().mean())


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of a few timings on CUDA, after one that warms up."""
    times = []
    for _ in range(1 + PROBE_REPEATS):
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])
