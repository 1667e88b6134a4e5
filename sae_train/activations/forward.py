"""Run the language model over a plan of windows, batch by batch, and yield the rows to store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sae_train.activations.travel import Rows, Travelling, to_device
from sae_train.lm.generate import pad_right
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel
from sae_train.text.token_plan import TokenPlan

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """What one batch of windows gave.

    Attributes:
        parts: Its rows, on their way to the host; several where the batch did not fit into memory.
        n_tokens: Tokens the model read, special ones included, padding left out.
    """

    parts: list[Travelling]
    n_tokens: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(part.n_rows for part in self.parts)

    def arrived(self) -> Rows:
        """Return the rows by hook point, once they are on the host.

        Raises:
            NumericalError, DtypeError: They cannot be stored (`checked_rows`).
        """
        return joined([part.arrived() for part in self.parts])


class BatchRunner:
    """Runs the batches of a plan that hold given rows.

    Batches do not depend on where one begins, so the rows are the same whoever computes them. Where a batch does not
    fit into memory it is run in halves, and so are later ones; sums in a half batch may differ in the last bit.
    """

    def __init__(
        self, lm: LanguageModel, plan: TokenPlan, hook_points: tuple[str, ...], batch_size: int, dtype: str
    ) -> None:
        self.lm, self.plan, self.hook_points, self.dtype = lm, plan, hook_points, dtype
        self.batch_size = self.fitting = batch_size
        self.rows_before = plan.rows_before
        self._copies: Any = None  # the stream for copies to the host, once there is one

    def run(self, first_row: int, end_row: int) -> Iterator[Batch]:
        """Yield the rows `first_row` to `end_row`, in order."""
        begin_at = bisect_right(self.rows_before, first_row) - 1  # the window that holds the first row
        for first in range(begin_at // self.batch_size * self.batch_size, self.plan.n_windows, self.batch_size):
            last = min(first + self.batch_size, self.plan.n_windows)
            begin, end = int(self.rows_before[first]), int(self.rows_before[last])
            if begin >= end_row:
                return
            if end <= first_row:
                continue
            n_tokens = int(self.plan.starts[last] - self.plan.starts[first])
            yield Batch(self._halved(range(first, last), lambda w, r: self._send(w, r, first_row, end_row)), n_tokens)

    def windows(self, windows: Sequence[int]) -> Rows:
        """Return the kept rows of some windows on the host, in halves where the whole does not fit into memory."""
        return joined(self._halved(windows, lambda _, rows: {name: acts.cpu() for name, acts in rows.items()}))

    def _send(self, windows: Sequence[int], rows: Rows, first_row: int, end_row: int) -> Travelling:
        """Send those rows of some windows that are wanted on their way to the host."""
        if self.lm.device.type == "cuda" and self._copies is None:
            self._copies = torch.cuda.Stream(self.lm.device)
        begin = int(self.rows_before[windows[0]])
        part = slice(max(0, first_row - begin), max(0, end_row - begin))
        return Travelling({name: acts[part] for name, acts in rows.items()}, self.dtype, self._copies)

    def _halved(self, windows: Sequence[int], use: Callable[[Sequence[int], Rows], T]) -> list[T]:
        """Return `use(windows, their rows)`, of halves one after the other where the whole does not fit into memory."""
        if len(windows) > self.fitting:
            return self._halves(windows, use)
        try:
            return [use(windows, _batch_rows(self.lm, self.plan, windows, self.hook_points))]
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if len(windows) == 1 or not is_out_of_memory(error):
                raise
        self.fitting = max(1, len(windows) // 2)
        if self.lm.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._halves(windows, use)

    def _halves(self, windows: Sequence[int], use: Callable[[Sequence[int], Rows], T]) -> list[T]:
        """Run two halves one after the other."""
        middle = len(windows) // 2
        return self._halved(windows[:middle], use) + self._halved(windows[middle:], use)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the rows of several parts (of several heights) by hook point, one after the other."""
    return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out; CPU and MPS have no type of their own for it."""
    said = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in said or "allocate memory" in said
    )


def _batch_rows(lm: LanguageModel, plan: TokenPlan, windows: Sequence[int], hook_points: tuple[str, ...]) -> Rows:
    """Run one batch of windows and return the kept rows of each hook point, in plan order, where the model is."""
    parts = [plan.window(w) for w in windows]
    ids, mask = (to_device(t, lm.device) for t in pad_right([plan.tokens[p].tolist() for p in parts]))
    kept = np.zeros(tuple(mask.shape), dtype=bool)
    for row, part in enumerate(parts):
        kept[row, : part.stop - part.start] = plan.keep[part]
    # As numbers: how many places a mask has is known to the device only, and the host would wait for it.
    where = tuple(to_device(torch.from_numpy(places), lm.device) for places in kept.nonzero())
    acts = capture(lm, ids, mask, hook_points)
    return {name: acts[name][where] for name in hook_points}
