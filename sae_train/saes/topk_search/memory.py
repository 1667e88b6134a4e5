"""A reused buffer for pre-activations, filled some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

SCRATCH_BYTES = 64 * 2**20  # of pre-activations at a time
FEWEST_ROWS = 512  # but no fewer rows at a time: the product needs some to be fast


class Memory:
    """Buffer for pre-activations, kept from call to call: fresh pages would cost a tenth of the product's time."""

    def __init__(self) -> None:
        self._scratch: Tensor | None = None

    def parts(
        self, n_rows: int, d_sae: int, dtype: torch.dtype, device: torch.device
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield equal parts of the rows, and for each the memory for its pre-activations, (part, d_sae)."""
        # Bounded, since pre-activations of a whole batch are by far the largest array of a step.
        fitting = SCRATCH_BYTES // (d_sae * dtype.itemsize)
        # Equal parts: a short last one would make the product slow.
        n_parts = max(1, -(-n_rows // max(FEWEST_ROWS, fitting)))
        step = max(1, -(-n_rows // n_parts))
        for start in range(0, n_rows, step):
            rows = slice(start, min(start + step, n_rows))
            yield (
                rows,
                self._room((rows.stop - rows.start) * d_sae * dtype.itemsize, device).view(dtype).view(-1, d_sae),
            )

    def _room(self, n_bytes: int, device: torch.device) -> Tensor:
        """Return that many bytes."""
        scratch = self._scratch
        if scratch is None or len(scratch) < n_bytes or scratch.device != device:
            scratch = self._scratch = torch.empty(n_bytes, dtype=torch.uint8, device=device)
        return scratch[:n_bytes]
