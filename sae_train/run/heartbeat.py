"""A sign of life: where nothing was said for some seconds, what is being done is said again.

Displays show a loop's steps; between them, in loops with long steps, while a model is loaded or a file is hashed, a log
stays silent. A thread that only looks at a clock and writes through the workbench's notes fills the gaps. Loops tell
it by themselves (`progress.shown`); other long work says so with `doing`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sae_train.run.notes import note

SILENCE_S = 5.0
LONGEST_S = 15.0  # silence, once it was said that something takes long


class Pulse:
    """What is being done, since when, and when something was last said.

    Args:
        clock: Seconds, growing.
        say: Tells the user.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, say: Callable[[str], None] | None = None
    ) -> None:
        self._clock = clock
        self._say = say or (lambda text: note(text, is_news=True))
        self._doing: list[tuple[Callable[[], str], float]] = []
        self._last, self._is_first = clock(), True

    @contextmanager
    def doing(self, what: str | Callable[[], str]) -> Iterator[None]:
        """Have something be what is being done while the block runs; inside it, the innermost.

        Args:
            what: In a few words, or what gives them at the moment: no words where a display moves by itself.
        """
        entry = (what if callable(what) else lambda: what, self._clock())
        self._doing.append(entry)
        self.said()
        try:
            yield
        finally:
            self._doing.remove(entry)
            self.said()

    def said(self) -> None:
        """Count silence from now on: something was written."""
        self._last, self._is_first = self._clock(), True

    def beat(self) -> None:
        """Say what is being done, where nothing was said for `SILENCE_S`, and then every `LONGEST_S` at most.

        Example:
            >>> seconds = iter([0.0, 0.0, 0.0, 3.0, 6.0, 6.0])
            >>> pulse = Pulse(clock=lambda: next(seconds), say=print)
            >>> with pulse.doing("asking"):
            ...     pulse.beat()
            ...     pulse.beat()
            ...     seconds = iter([6.0, 6.0])
            asking (6 s so far)
        """
        now = self._clock()
        if now - self._last < (SILENCE_S if self._is_first else LONGEST_S - SILENCE_S):
            return
        try:
            what, since = self._doing[-1]
        except IndexError:  # the block was left in between
            return
        text = what()
        if text:
            self._last, self._is_first = now, False
            self._say(f"{text} ({now - since:.0f} s so far)")


PULSE = Pulse()  # of the process
doing = PULSE.doing
_BEATING = threading.Lock()


@contextmanager
def beating(pulse: Pulse = PULSE, *, every_s: float = 1.0) -> Iterator[None]:
    """Have a pulse beat in a thread while the block runs; of several processes (torchrun) only the first one's.

    Where one beats already there is no second.
    """
    if os.environ.get("RANK", "0") != "0" or not _BEATING.acquire(blocking=False):
        yield
        return
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every_s):
            pulse.beat()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _BEATING.release()
