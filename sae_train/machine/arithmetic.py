"""Which number formats this machine multiplies at a useful speed: the one place that decides.

A processor without instructions for bfloat16 or float16 multiplies them many times slower than float32 (measured on
AVX2: 0.6 GFLOP/s where float32 gives 29). A small product is timed once in a process; what is too slow is computed in
float32, and the user is told.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import cache

import torch

from sae_train.run.notes import note

SIDE = 256  # of the square matrices that are multiplied: 34 MFLOP, 1 ms in float32
REPEATS = 5
MOST_SLOWDOWN = 4.0  # far from both 0.5 (instructions for bfloat16) and 40 (none): no timing under load changes sides


@cache
def product_seconds(dtype: torch.dtype) -> float:
    """Return the seconds of one product of two square matrices of `SIDE` on one core: the shortest of a few."""
    matrix, times, n_threads = torch.ones(SIDE, SIDE, dtype=dtype), list[float](), torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where the machine has other work
    try:
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            torch.mm(matrix, matrix)
            times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(n_threads)
    return min(times[1:])


def is_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether products in a number format take at most `MOST_SLOWDOWN` times as long as in float32.

    Accelerators are not timed: they have instructions for what they offer.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return True
    return product_seconds(dtype) <= MOST_SLOWDOWN * product_seconds(torch.float32)


def usable(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return a number format, or float32 where the machine is too slow in it, with a note to the user."""
    if is_fast(dtype, device):
        return dtype
    _note_slow(str(dtype).removeprefix("torch."))
    return torch.float32


def autocast(device: torch.device, *, enabled: bool) -> AbstractContextManager[object]:
    """Return torch's autocast to bfloat16; off where it is not asked for or the machine is too slow in it."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=enabled and usable(torch.bfloat16, device) == torch.bfloat16
    )


@cache  # once in a process
def _note_slow(dtype: str) -> None:
    """Tell the user that a number format is not used."""
    slowdown = product_seconds(getattr(torch, dtype)) / product_seconds(torch.float32)
    note(
        f"this processor has no instructions for {dtype}: products take {slowdown:.0f} times as long as in float32, "
        "in which everything is computed instead"
    )
