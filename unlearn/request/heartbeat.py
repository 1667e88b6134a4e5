"""A sign of life: where nothing was said for some seconds, what is being done is said again.

Displays show a loop's steps; between them, and in loops with long steps, a log stays silent. A thread that only looks
at a clock and writes through the workbench's notes fills the gaps.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sae_train.run.notes import note
from sae_train.run.progress import Advance, Number, Progress, in_notebook

SILENCE_S = 5.0


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
        self._doing, self._since, self._last = "", clock(), clock()
        self._steps = 0.0

    def doing(self, what: str) -> None:
        """Begin something else."""
        self._doing, self._since, self._last, self._steps = what, self._clock(), self._clock(), 0.0

    def step(self, n: Number) -> None:
        """Count steps; they are said when a while has passed."""
        self._steps += n

    def beat(self) -> None:
        """Say what is being done, where nothing was said for `SILENCE_S`.

        Example:
            >>> seconds = iter([0.0, 0.0, 1.0, 1.0, 3.0, 7.0, 7.0, 7.0])
            >>> pulse = Pulse(clock=lambda: next(seconds), say=print)
            >>> pulse.doing("asking")
            >>> pulse.beat()
            >>> pulse.beat()
            asking: 6 s
        """
        now = self._clock()
        if now - self._last < SILENCE_S or not self._doing:
            return
        self._last = now
        done = f", {self._steps:,.0f} steps" if self._steps else ""
        self._say(f"{self._doing}: {now - self._since:.0f} s{done}")

    def wrapped(self, progress: Progress) -> Progress:
        """Return a progress whose loops are what is being done."""

        @contextmanager
        def opened(description: str, total: Number | None = None, *, unit: str = "") -> Iterator[Advance]:
            # A bar on a terminal or in a notebook moves by itself.
            self.doing("" if sys.stderr.isatty() or in_notebook() else description)
            with progress(description, total, unit=unit) as shown:

                def advance(n: Number = 1, /, *, earlier: Number = 0, **info: object) -> None:
                    self.step(n)
                    shown(n, earlier=earlier, **info)

                yield advance
            self.doing(f"after {description}")

        return opened


@contextmanager
def beating(pulse: Pulse, *, every_s: float = 1.0) -> Iterator[None]:
    """Have a pulse beat in a thread while the block runs."""
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
