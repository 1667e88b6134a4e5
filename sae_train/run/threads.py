"""Torch threads, and independent parts of one step run in parallel on CPU, each with its share of threads.

The matrix products of a small model are too short to be shared out among cores; whole pieces are not. What the pieces
return comes in their order, so that the result does not depend on which one is done first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch use `n` threads while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def side_by_side(device: torch.device, most: int) -> Iterator[Mapper]:
    """Give a `map` whose calls run at the same time; the built-in one on an accelerator or with a single thread.

    Args:
        device: Where the tensors live.
        most: Pieces in a step: no more threads than that are of use.

    Example:
        >>> with side_by_side(torch.device("cpu"), 2) as mapped:
        ...     list(mapped(abs, [-1, 2]))
        [1, 2]
    """
    n_threads = torch.get_num_threads()
    n_workers = min(n_threads, most)
    if device.type != "cpu" or n_workers < 2:
        yield map
        return
    with torch_threads(n_threads // n_workers), ThreadPoolExecutor(n_workers) as pool:
        yield pool.map
