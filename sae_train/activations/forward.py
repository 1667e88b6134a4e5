"""Run the language model over a plan of windows, batch by batch, and yield the rows to store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.errors import DtypeError, NumericalError
from sae_train.lm.generate import pad_right
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel
from sae_train.text.token_plan import TokenPlan

FLOAT16_MAX = 65_504.0
Rows = dict[str, Float[Tensor, "row d_in"]]


@dataclass(frozen=True)
class Batch:
    """What one batch of windows gave.

    Attributes:
        acts: Rows by hook point, float, on the host.
        n_tokens: Tokens the model read, special ones included, padding left out.
    """

    acts: Rows
    n_tokens: int


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
            acts = self.windows(range(first, last))
            part = slice(max(0, first_row - begin), min(end, end_row) - begin)
            n_tokens = int(self.plan.starts[last] - self.plan.starts[first])
            yield Batch({name: checked_rows(rows[part], name, self.dtype) for name, rows in acts.items()}, n_tokens)

    def windows(self, windows: Sequence[int]) -> Rows:
        """Return the kept rows of some windows, in halves where the whole does not fit into memory."""
        if len(windows) > self.fitting:
            return self._halves(windows)
        try:
            return _batch_rows(self.lm, self.plan, windows, self.hook_points)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if len(windows) == 1 or not is_out_of_memory(error):
                raise
        self.fitting = max(1, len(windows) // 2)
        if self.lm.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._halves(windows)

    def _halves(self, windows: Sequence[int]) -> Rows:
        """Run two halves one after the other."""
        middle = len(windows) // 2
        one, two = self.windows(windows[:middle]), self.windows(windows[middle:])
        return {name: torch.cat([one[name], two[name]]) for name in self.hook_points}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out; CPU and MPS have no type of their own for it."""
    said = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in said or "allocate memory" in said
    )


def _batch_rows(lm: LanguageModel, plan: TokenPlan, windows: Sequence[int], hook_points: tuple[str, ...]) -> Rows:
    """Run one batch of windows and return the kept rows of each hook point, in plan order."""
    parts = [plan.window(w) for w in windows]
    ids, mask = pad_right([plan.tokens[p].tolist() for p in parts], device=lm.device)
    kept = torch.zeros(mask.shape, dtype=torch.bool)
    for row, part in enumerate(parts):
        kept[row, : part.stop - part.start] = torch.from_numpy(plan.keep[part])
    acts = capture(lm, ids, mask, hook_points)
    where = kept.to(lm.device)
    return {name: acts[name][where].cpu() for name in hook_points}


def checked_rows(rows: Float[Tensor, "row d_in"], name: str, dtype: str) -> Float[Tensor, "row d_in"]:
    """Return the rows if the stored dtype can hold them.

    Raises:
        NumericalError: NaN or Inf.
        DtypeError: A value beyond float16's 65,504.
    """
    largest = float(rows.abs().max()) if len(rows) else 0.0  # NaN and Inf show in the maximum too
    if not np.isfinite(largest):
        n_bad = int((~torch.isfinite(rows)).any(dim=1).sum())
        raise NumericalError(
            f"the model's activations at {name} are not finite",
            got=f"{n_bad} of {len(rows)} rows with NaN or Inf",
            expected="finite numbers",
            try_="`lm_dtype`=float32",
        )
    if dtype == "float16" and largest > FLOAT16_MAX:
        raise DtypeError(
            f"float16 cannot hold the activations at {name}",
            got=f"a maximum of {largest:,.0f} (`dtype`=float16)",
            expected=f"at most {FLOAT16_MAX:,.0f}",
            try_="`dtype`=bfloat16",
        )
    return rows
