"""A run that is told to stop (SIGTERM: a cluster's time limit) saves first, where it can be continued.

The command line hears the signal (`terminations_heard`). A loop that can save says so (`saving`) and asks after each
step; everything else is interrupted where it is, as by Ctrl-C. A second signal interrupts at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_train.run.processes import Processes  # imports torch, which `wb --help` must not

EXIT_TERMINATED = 128 + signal.SIGTERM  # as a shell says it of a process that the signal ended


class Terminated(KeyboardInterrupt):
    """The run was told to stop.

    Args:
        is_saved: What it had done is saved, and can be continued.
    """

    def __init__(self, *, is_saved: bool = False) -> None:
        super().__init__()
        self.is_saved = is_saved


class _Told:
    """Whether the signal came, and how many loops will see to it."""

    def __init__(self) -> None:
        self.is_told, self.n_saving = False, 0

    def hear(self, _number: int, _frame: FrameType | None) -> None:
        """Take the signal: remember it for a loop that saves; else, and the second time, interrupt."""
        if self.is_told or not self.n_saving:
            raise Terminated
        self.is_told = True


_TOLD = _Told()


@contextmanager
def terminations_heard() -> Generator[None]:
    """Hear SIGTERM while a command runs; in a thread of its own nothing can be heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _TOLD.is_told = False
    earlier = signal.signal(signal.SIGTERM, _TOLD.hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def saving(save: Callable[[], None], processes: Processes | None = None) -> Iterator[Callable[[], None]]:
    """Yield what a loop calls between two steps; where the run was told to stop, it saves and ends the run.

    Args:
        save: Writes what the run can be continued from.
        processes: Processes that save together; all of them have to call at the same steps. None: each for itself.

    Raises:
        Terminated: When called after the signal.
    """

    def stop_if_told() -> None:
        if _any_told(processes):
            save()
            raise Terminated(is_saved=True)

    _TOLD.n_saving += 1
    try:
        yield stop_if_told
        stop_if_told()  # it may have come during the last step
    finally:
        _TOLD.n_saving -= 1


def _any_told(processes: Processes | None) -> bool:
    """Tell whether any of the processes was told, so that all of them save the same step."""
    if processes is None or processes.count == 1:
        return _TOLD.is_told
    import torch

    told = torch.tensor(float(_TOLD.is_told))
    processes.sum_(told)
    return bool(told)
