"""Find the k largest pre-activations of every row: exactly, mostly among candidates of a faster product.

`float32` multiplies in the weights' own precision, `int8` in whole numbers (on CPU), `bfloat16` in that. All of them
choose half as many candidates again as are wanted, compute those in the weights' precision and keep the k largest, so
values are exact. On CPU so is the choice: how far a row's candidates were off is known then, and rows in which a latent
that was left out could come near the k-th (within `SURE` standard deviations) are searched again in full. On CUDA,
where to look would be to wait, a latent that is no candidate is missed; `auto` takes bfloat16 there only if hardly one
of a sample is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_train.saes.int8_product import Int8Product, int8_is_fast
from sae_train.saes.sparse_ops import Support, row_dots
from sae_train.saes.strongest import FloatScores, Strongest, strongest

SCRATCH_BYTES = 64 * 2**20  # of pre-activations at a time
FEWEST_ROWS = 512  # but no fewer rows at a time: the product needs some to be fast
CANDIDATES_PAY = 8  # latents for each candidate: with fewer, all are searched
SURE = 3.0  # standard deviations of a row's error that lie between the k-th and what was left out
MOST_AGAIN = 0.1  # share of rows that may be searched again for int8 to be worth it
SAME_CHOICE = 0.999  # share of the k largest that bfloat16 candidates must contain to be used by themselves
INT8_PAYS = 2**20  # numbers in the encoder from which on the product is most of a search
PROBE_ROWS, PROBE_LATENTS, PROBE_REPEATS = 512, 2048, 3


class Found(NamedTuple):
    """The k largest pre-activations of each row, in no order."""

    values: Float[Tensor, "batch k"]
    indices: Int[Tensor, "batch k"]


class TopKSearch:
    """Finds the k largest of `centered @ W_enc + b_enc` in every row, without gradients; of those below zero, any.

    Args:
        k: How many.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._scratch: Tensor | None = None

    @torch.no_grad()
    def __call__(
        self,
        centered: Float[Tensor, "batch d_in"],
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, " d_sae"],
        dtype: str = "float32",
    ) -> Found:
        """Return values and indices; `dtype` is one of `config.SEARCH_DTYPES`, see the module."""
        if torch.is_autocast_enabled(centered.device.type):
            dtype = "bfloat16"
        on_cpu, d_sae = centered.device.type == "cpu", len(b_enc)
        if not self.has_candidates(d_sae) or (dtype == "float32" and not on_cpu):
            return self._in_full(centered, W_enc, b_enc, self.k)
        found, sure = self.among_candidates(centered, W_enc, b_enc, dtype)
        if on_cpu:
            again = (~sure).nonzero().flatten()
            for mine, theirs in zip(found, self._in_full(centered[again], W_enc, b_enc, self.k), strict=True):
                mine.index_copy_(0, again, theirs)
        return found

    def has_candidates(self, d_sae: int) -> bool:
        """Return whether there are so many latents that choosing candidates spares work."""
        return d_sae >= CANDIDATES_PAY * n_candidates_for(self.k)

    def among_candidates(
        self, centered: Tensor, W_enc: Tensor, b_enc: Tensor, dtype: str
    ) -> tuple[Found, Bool[Tensor, " batch"]]:
        """Return the k largest of the candidates, and in which rows no other latent can be among them (on CPU)."""
        if centered.device.type == "cpu":
            near = self._candidates(centered, W_enc, b_enc, dtype)
        else:
            x, W, b = (t.to(torch.bfloat16) for t in (centered, W_enc, b_enc))
            found = self._in_full(x, W, b, n_candidates_for(self.k))
            near = Strongest(*found, ceiling=b_enc.new_full((), torch.inf))
        values = near.scores
        if dtype != "float32":
            support = Support.of_rows(near.latents, len(b_enc))
            values = (row_dots(centered, W_enc.T, support) + b_enc[support.latents]).view(near.latents.shape)
        best = torch.topk(values, self.k, dim=1, sorted=False)
        error = (values.relu() - near.scores.relu()).square().mean(dim=1).sqrt()
        sure = best.values.amin(dim=1).relu() >= near.ceiling + SURE * error
        return Found(best.values, near.latents.gather(1, best.indices)), sure

    def _candidates(self, centered: Tensor, W_enc: Tensor, b_enc: Tensor, dtype: str) -> Strongest:
        """Return what is nearly the largest in each row, some rows at a time in the same memory."""
        found, n = [], n_candidates_for(self.k)
        if dtype == "int8":
            product = Int8Product(centered, W_enc.T, b_enc, n)
            for rows in self._parts(len(centered), len(b_enc), 4):
                room = self._room(rows, len(b_enc), torch.int32, centered.device)
                found.append(strongest(product.scores(rows, room), n))
        else:
            kind = torch.bfloat16 if dtype == "bfloat16" else centered.dtype
            x, w = centered.to(kind), W_enc.to(kind)
            for rows in self._parts(len(centered), len(b_enc), kind.itemsize):
                room = self._room(rows, len(b_enc), kind, centered.device)
                found.append(strongest(FloatScores(torch.mm(x[rows], w, out=room), b_enc), n))
        return found[0] if len(found) == 1 else Strongest(*map(torch.cat, zip(*found, strict=True)))

    def _in_full(self, centered: Tensor, W_enc: Tensor, b_enc: Tensor, n: int) -> Found:
        """Return the n largest of each row."""
        found = [Found(centered.new_empty(0, n), torch.empty(0, n, dtype=torch.int64, device=centered.device))]
        for rows in self._parts(len(centered), len(b_enc), centered.element_size()):
            room = self._room(rows, len(b_enc), centered.dtype, centered.device)
            scores = torch.addmm(b_enc, centered[rows], W_enc, out=room)
            found.append(Found(*torch.topk(scores, n, dim=1, sorted=False)))
        return Found(*map(torch.cat, zip(*found, strict=True)))

    def _parts(self, n_rows: int, d_sae: int, itemsize: int) -> list[slice]:
        """Return equal parts of the rows whose pre-activations fit the memory."""
        fitting = SCRATCH_BYTES // (d_sae * itemsize)
        n_parts = max(1, -(-n_rows // max(FEWEST_ROWS, fitting)))
        step = max(1, -(-n_rows // n_parts))
        return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]

    def _room(self, rows: slice, d_sae: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for pre-activations, the same at each call: fresh pages would cost a tenth of the product."""
        n_bytes = (rows.stop - rows.start) * d_sae * dtype.itemsize
        scratch = self._scratch
        if scratch is None or len(scratch) < n_bytes or scratch.device != device:
            scratch = self._scratch = torch.empty(n_bytes, dtype=torch.uint8, device=device)
        return scratch[:n_bytes].view(dtype).view(-1, d_sae)


def n_candidates_for(k: int) -> int:
    """Return how many candidates to choose: half as many again as k, at least 8 more.

    Example:
        >>> n_candidates_for(32), n_candidates_for(64), n_candidates_for(4)
        (48, 96, 12)
    """
    return k + max(8, k // 2)


@torch.no_grad()
def best_dtype(
    centered: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> str:
    """Return in what to search here: on CPU by the processor and by the rows, on CUDA by a timing and by the rows."""
    rows = centered[:PROBE_ROWS]
    if centered.device.type == "cpu":
        return "int8" if int8_is_fast() and int8_pays(rows, W_enc, b_enc, k) else "float32"
    part = W_enc[:, :PROBE_LATENTS]
    low_rows, low_part = rows.bfloat16(), part.bfloat16()
    if _seconds(lambda: low_rows @ low_part, rows.device) * 1.5 > _seconds(lambda: rows @ part, rows.device):
        return "float32"  # the candidates' second computation would cost what the product saves
    exact, candidates = (TopKSearch(k)(rows, W_enc, b_enc, name).indices for name in ("float32", "bfloat16"))
    return "bfloat16" if same_choice(exact, candidates) >= SAME_CHOICE else "float32"


def int8_pays(
    rows: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> bool:
    """Return whether the encoder is large enough, and few of the rows would have to be searched again."""
    search = TopKSearch(k)
    if W_enc.numel() < INT8_PAYS or not search.has_candidates(len(b_enc)):
        return False
    _, sure = search.among_candidates(rows, W_enc, b_enc, "int8")
    return float(sure.float().mean()) >= 1 - MOST_AGAIN


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
