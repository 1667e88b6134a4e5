"""Refuse work that does not fit into memory before it starts; measure how much some work took at its highest."""

from __future__ import annotations

import os
from threading import Event, Thread

import psutil
import torch

from sae_train.errors import MemoryShortError

LOOK_S = 0.002  # between two looks at the resident memory; a tensor that matters is held for longer


def require_memory(needed: int, device: torch.device, *, what: str, try_: str) -> None:
    """Compare the bytes that work takes with those that are free: on a CUDA device, else of the host.

    Args:
        needed: Bytes.
        device: Where they are taken.
        what: The end of the message: "for these SAEs".
        try_: What would take less.

    Raises:
        MemoryShortError: Less is free.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise MemoryShortError(
            f"the memory is too small {what}",
            got=f"{free / 2**30:.1f} GiB free on {device}",
            expected=f"at least {needed / 2**30:.1f} GiB",
            try_=try_,
        )


class PeakMemory:
    """The most memory that was taken while the context was open, beyond what was taken when it was opened.

    On a CUDA device what torch has given out there; else the resident memory of the process, looked at every `LOOK_S`.
    Memory that was freed before and that the C library has kept for reuse is not seen again.

    Args:
        device: Where the tensors live.

    Attributes:
        n_bytes: The peak, bytes; 0 until the context is closed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.n_bytes = device, 0
        self._highest, self._over = 0, Event()
        self._watcher = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        """Begin to watch."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._process = psutil.Process(os.getpid())
            self._before = self._highest = self._process.memory_info().rss
            self._watcher.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop, and keep the peak."""
        if self.device.type == "cuda":
            self._highest = torch.cuda.max_memory_allocated(self.device)
        else:
            self._over.set()
            self._watcher.join()
            self._look()
        self.n_bytes = self._highest - self._before

    def _watch(self) -> None:
        """Look again and again."""
        while not self._over.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        """Look once."""
        self._highest = max(self._highest, self._process.memory_info().rss)
