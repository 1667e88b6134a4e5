"""Find the k largest pre-activations of every row: exactly, or among candidates from a bfloat16 product.

`float32` multiplies in the weights' own precision and takes the k largest. `bfloat16` multiplies in bfloat16, takes a
few more than k as candidates, computes those in the weights' precision and keeps the k largest: the values are exact,
and so is the choice unless one of the k largest is no candidate. Which is faster is a matter of the processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.saes.sparse_ops import Support, row_dots

SCRATCH_BYTES = 64 * 2**20  # of pre-activations at a time
FEWEST_ROWS = 512  # but no fewer rows at a time: the product needs some to be fast
ROWS_IN_CACHE = 64  # of scores that are passed over twice
GROUP, GROUPS_PAY = 4, 20  # latents in a group; groups are used where there are more than twenty times n latents
PROBE_ROWS, PROBE_LATENTS, PROBE_REPEATS = 512, 2048, 3
SAME_CHOICE = 0.999  # share of the k largest that bfloat16 candidates must contain to be used by themselves


class Found(NamedTuple):
    """The k largest pre-activations of each row, in no order."""

    values: Float[Tensor, "batch k"]
    indices: Int[Tensor, "batch k"]


class TopKSearch:
    """Finds the k largest of `centered @ W_enc + b_enc` in every row, without gradients.

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
        """Return values and indices; `dtype` is `float32` (the weights' own) or `bfloat16`, see the module."""
        if dtype == "bfloat16":
            return self._among_candidates(centered, W_enc, b_enc)
        kind = centered.device.type
        if torch.is_autocast_enabled(kind):  # it leaves products alone that are told where to write
            low = torch.get_autocast_dtype(kind)
            found = self._largest(centered.to(low), W_enc.to(low), b_enc.to(low), self.k)
            return Found(found.values.to(centered.dtype), found.indices)
        return self._largest(centered, W_enc, b_enc, self.k)

    def _among_candidates(self, centered: Tensor, W_enc: Tensor, b_enc: Tensor) -> Found:
        """Choose candidates in bfloat16, compute them again, keep the k largest."""
        low = torch.bfloat16
        n_candidates = min(n_candidates_for(self.k), len(b_enc))
        indices = self._largest(centered.to(low), W_enc.to(low), b_enc.to(low), n_candidates).indices
        indices = indices.sort(dim=1).values  # neighbours in memory one after the other
        support = Support.of_rows(indices, len(b_enc))
        values = (row_dots(centered, W_enc.T, support) + b_enc[support.latents]).view(indices.shape)
        best = torch.topk(values, self.k, dim=1, sorted=False)
        return Found(best.values, indices.gather(1, best.indices))

    def _largest(self, centered: Tensor, W_enc: Tensor, b_enc: Tensor, n: int) -> Found:
        """Return the n largest of each row, some rows at a time in the same memory."""
        d_sae = len(b_enc)
        most = max(FEWEST_ROWS, SCRATCH_BYTES // (d_sae * centered.element_size()))
        found = []
        for rows in centered.chunk(-(-len(centered) // most)):
            room = self._room(len(rows), d_sae, rows)
            if rows.device.type == "cpu" and rows.element_size() >= 4:
                # `addmm` would write the bias to every row first; `largest` adds it to what it reads anyway.
                found.append(largest(torch.mm(rows, W_enc, out=room), n, bias=b_enc))
            else:
                found.append(largest(torch.addmm(b_enc, rows, W_enc, out=room), n))
        return found[0] if len(found) == 1 else Found(*map(torch.cat, zip(*found, strict=True)))

    def _room(self, n_rows: int, d_sae: int, like: Tensor) -> Tensor:
        """Return memory for pre-activations, the same at each call: fresh pages would cost a tenth of the product."""
        scratch = self._scratch
        if (
            scratch is None
            or scratch.numel() < n_rows * d_sae
            or (scratch.dtype, scratch.device)
            != (
                like.dtype,
                like.device,
            )
        ):
            scratch = self._scratch = torch.empty(n_rows * d_sae, dtype=like.dtype, device=like.device)
        return scratch[: n_rows * d_sae].view(n_rows, d_sae)


def largest(scores: Float[Tensor, "batch d_sae"], n: int, *, bias: Float[Tensor, " d_sae"] | None = None) -> Found:
    """Return the n largest scores of each row, after adding `bias`, if there is one, to them in place.

    On CPU through groups of four latents, where that is less work: every one of the n largest is in one of the n groups
    with the largest maxima, and those are found in the same way. In bfloat16, which is for candidates, scores below
    zero are taken for any of them.
    """
    if scores.device.type != "cpu" or not worth_grouping(scores.shape[1], n):
        return Found(*torch.topk(scores if bias is None else scores.add_(bias), n, dim=1, sorted=False))
    ordered = scores.view(torch.int16) if scores.dtype == torch.bfloat16 else scores  # the same order above zero
    maxima = ordered.new_empty(len(scores), scores.shape[1] // GROUP)
    for rows, as_ordered, highest in zip(*(x.split(ROWS_IN_CACHE) for x in (scores, ordered, maxima)), strict=True):
        if bias is not None:
            rows += bias
        torch.amax(as_ordered.view(len(rows), GROUP, -1), dim=1, out=highest)
    indices = _among_groups(ordered, _largest_places(maxima, n), n)
    return Found(scores.gather(1, indices), indices)


def worth_grouping(width: int, n: int) -> bool:
    """Return whether the n largest of a row are sooner found through its groups.

    Example:
        >>> worth_grouping(5120, 32), worth_grouping(320, 32), worth_grouping(5118, 32)
        (True, False, False)
    """
    return width % GROUP == 0 and width > GROUPS_PAY * n


def _largest_places(scores: Tensor, n: int) -> Int[Tensor, "batch n"]:
    """Return the places of the n largest in each row."""
    if not worth_grouping(scores.shape[1], n):
        return _partition(scores, n)
    return _among_groups(scores, _largest_places(scores.view(len(scores), GROUP, -1).amax(dim=1), n), n)


def _among_groups(scores: Tensor, groups: Int[Tensor, "batch n"], n: int) -> Int[Tensor, "batch n"]:
    """Return the places of the n largest in each row that are in its groups.

    A group is a column of four: its members are far apart, its maximum is fast.
    """
    firsts = torch.arange(0, scores.shape[1], scores.shape[1] // GROUP)
    members = (groups.unsqueeze(1) + firsts.unsqueeze(1)).flatten(1)
    return members.gather(1, _partition(scores.gather(1, members), n))


def _partition(scores: Tensor, n: int) -> Int[Tensor, "batch n"]:
    """Return the places of the n largest in each row; NumPy's vectorised selection is several times torch.topk's."""
    array = (scores if scores.dtype.itemsize >= 4 else scores.int()).numpy()
    parts = np.array_split(array, torch.get_num_threads())
    with ThreadPoolExecutor(len(parts)) as pool:
        found = pool.map(lambda part: np.argpartition(part, part.shape[1] - n, axis=1)[:, -n:], parts)
        return torch.from_numpy(np.concatenate(list(found)))


def n_candidates_for(k: int) -> int:
    """Return how many bfloat16 candidates to compute again: a quarter more than k, at least 8 more.

    Example:
        >>> n_candidates_for(32), n_candidates_for(64), n_candidates_for(4)
        (40, 80, 12)
    """
    return k + max(8, k // 4)


@torch.no_grad()
def best_dtype(
    centered: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> str:
    """Return `bfloat16` where that is faster here and finds the same latents on these rows, otherwise `float32`."""
    rows, part = centered[:PROBE_ROWS], W_enc[:, :PROBE_LATENTS]
    low_rows, low_part = rows.bfloat16(), part.bfloat16()
    if _seconds(lambda: low_rows @ low_part, rows.device) * 1.5 > _seconds(lambda: rows @ part, rows.device):
        return "float32"  # the candidates' second computation would cost what the product saves
    exact, candidates = (TopKSearch(k)(rows, W_enc, b_enc, name).indices for name in ("float32", "bfloat16"))
    return "bfloat16" if same_choice(exact, candidates) >= SAME_CHOICE else "float32"


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
    """Return the shortest of a few timings, after one that warms up."""
    times = []
    for _ in range(1 + PROBE_REPEATS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])
