"""Refuse work that does not fit into memory before it starts."""

from __future__ import annotations

import psutil
import torch

from sae_train.errors import MemoryShortError


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
