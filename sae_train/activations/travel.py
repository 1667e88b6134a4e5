"""Rows of activations on their way from the device to the host: copied while the next forward pass runs.

On CUDA they are brought to the stored number format first (half the bytes), and copied into page-locked memory on a
stream of their own; nobody waits before `arrived` is called, which another thread may do. What has to be known of the
rows as they were, their largest value, travels with them. On other devices there is nothing to overlap.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.activations.encoding import STORED_TORCH
from sae_train.errors import DtypeError, NumericalError

FLOAT16_MAX = 65_504.0
Rows = dict[str, Float[Tensor, "row d_in"]]


class Travelling:
    """Rows of one forward pass by hook point.

    Args:
        rows: Where the model left them.
        dtype: In what they will be stored; a value that it cannot hold is refused on arrival.
        stream: The CUDA stream for copies; None: the rows are taken as they come.
    """

    def __init__(self, rows: Rows, dtype: str, stream: Any = None) -> None:
        self.dtype, self.n_rows = dtype, len(next(iter(rows.values())))
        self._largest: dict[str, Tensor | None] = dict.fromkeys(rows)
        self._event: Any = None
        if stream is None:
            self._rows = {name: values.cpu() for name, values in rows.items()}
            return
        numbers = {name: values.abs().amax().float() for name, values in rows.items() if len(values)}
        stored = {name: values.to(STORED_TORCH[dtype]) for name, values in rows.items()}
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._rows = {name: _copy(values, stream) for name, values in stored.items()}
            self._largest |= {name: _copy(value, stream) for name, value in numbers.items()}
            self._event = torch.cuda.Event()
            self._event.record(stream)

    def arrived(self) -> Rows:
        """Return the rows on the host, once they are there.

        Raises:
            NumericalError, DtypeError: As `checked_rows`.
        """
        if self._event is not None:
            self._event.synchronize()
        return {name: checked_rows(rows, name, self.dtype, self._largest[name]) for name, rows in self._rows.items()}


def _copy(source: Tensor, stream: Any) -> Tensor:
    """Begin to copy a tensor into page-locked memory of the host."""
    target = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
    target.copy_(source, non_blocking=True)
    source.record_stream(stream)  # its memory is not given to the next forward pass before the copy is done
    return target


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, without waiting for what the device has to do before."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def checked_rows(
    rows: Float[Tensor, "row d_in"], name: str, dtype: str, largest: Tensor | None = None
) -> Float[Tensor, "row d_in"]:
    """Return the rows if the stored dtype can hold them.

    Args:
        rows: The rows.
        name: Their hook point.
        dtype: The stored dtype.
        largest: Their largest absolute value before they were brought to it, where they were.

    Raises:
        NumericalError: NaN or Inf.
        DtypeError: A value beyond float16's 65,504.
    """
    if largest is None:
        largest = rows.abs().max() if len(rows) else torch.zeros(())
    most = float(largest)  # NaN and Inf show in the maximum too
    if not torch.isfinite(largest):
        n_bad = int((~torch.isfinite(rows)).any(dim=1).sum())
        raise NumericalError(
            f"the model's activations at {name} are not finite",
            got=f"{n_bad} of {len(rows)} rows with NaN or Inf",
            expected="finite numbers",
            try_="`lm_dtype`=float32",
        )
    if dtype == "float16" and most > FLOAT16_MAX:
        raise DtypeError(
            f"float16 cannot hold the activations at {name}",
            got=f"a maximum of {most:,.0f} (`dtype`=float16)",
            expected=f"at most {FLOAT16_MAX:,.0f}",
            try_="`dtype`=bfloat16",
        )
    return rows
