"""Progress reporting: one protocol for all long operations, and its displays.

A station is given a `Progress`; it opens one display per loop, and the loop calls the `Advance` that it gets:

    with progress("training", 400_000, unit="tokens") as advance:
        advance(1024, fvu=0.31)

`shown` chooses the display: a bar of rich on a terminal, a bar of tqdm in a notebook, elsewhere a line on stderr about
every ten seconds; where steps take longer, the heartbeat says how far it is. `silent` shows nothing. Imports neither
torch nor rich before something is shown.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from sae_train.run.heartbeat import PULSE

Number = int | float  # executed annotations tell the two apart
LINE_EVERY_S = 10.0  # how often a line is written where there is neither a terminal nor a notebook


@runtime_checkable
class Advance(Protocol):
    """What a loop calls after each step."""

    def __call__(self, n: Number = 1, /, *, earlier: Number = 0, **info: object) -> None:
        """Move on by `n` and show `info`, such as `fvu=0.31`; what an `earlier` run did counts, but not in the rate."""
        ...


@runtime_checkable
class Progress(Protocol):
    """What a station opens for each of its loops."""

    def __call__(
        self, description: str, total: Number | None = None, *, unit: str = ""
    ) -> AbstractContextManager[Advance]:
        """Open a display.

        Args:
            description: What is being done, in a word or two.
            total: Steps to do; None if unknown.
            unit: What is counted, for the rate: `tokens` shows tokens/s.
        """
        ...


def no_advance(n: Number = 1, /, *, earlier: Number = 0, **info: object) -> None:
    """Show nothing: the default `Advance`."""


@contextmanager
def silent(description: str, total: Number | None = None, *, unit: str = "") -> Iterator[Advance]:
    """Show nothing: a `Progress` without display."""
    yield no_advance


@contextmanager
def shown(description: str, total: Number | None = None, *, unit: str = "") -> Iterator[Advance]:
    """Show how far a loop is, how fast, and how long it still takes: terminal, notebook or log, whatever there is."""
    if in_notebook():
        opened = _notebook_bar(description, total, unit)
    elif sys.stderr.isatty():
        opened = _terminal_bar(description, total, unit)
    else:
        opened = _lines(description, total, unit)
    # A bar moves by itself: nothing is to be said beside it.
    with opened as advance, PULSE.doing(advance.text if isinstance(advance, Lines) else ""):
        yield advance


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def value_text(value: object) -> str:
    """Return a value as one reads it.

    Example:
        >>> [value_text(v) for v in (1234567, 0.123456, True, None, float("nan"), ("a", 2))]
        ['1,234,567', '0.1235', 'yes', '–', '–', 'a, 2']
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(value_text(v) for v in value)
    return str(value)


class Lines:
    """An `advance` that writes a line at most every `LINE_EVERY_S` seconds.

    Args:
        description, total, unit: As in `Progress`.
        write: Is given a line.
        clock: Seconds, growing.

    Example:
        >>> seconds = iter([0.0, 1.0, 20.0])
        >>> advance = Lines("training", 100, unit="tokens", write=print, clock=lambda: next(seconds))
        >>> advance(10)
        >>> advance(30, fvu=0.25)
        training: 40/100, 2 tokens/s, 30 s left, fvu 0.25
        >>> seconds = iter([0.0, 0.0, 10.0])
        >>> advance = Lines("training", 100, unit="tokens", write=print, clock=lambda: next(seconds))
        >>> advance(0, earlier=60)
        >>> advance(20)
        training: 80/100, 2 tokens/s, 10 s left
    """

    def __init__(
        self,
        description: str,
        total: Number | None,
        *,
        unit: str = "",
        write: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._write, self._clock = write, clock
        self._started = self._last = clock()
        self._done: Number = 0
        self._earlier: Number = 0
        self._info: Mapping[str, object] = {}

    def __call__(self, n: Number = 1, /, *, earlier: Number = 0, **info: object) -> None:
        """Count, and write where it is time."""
        self._done += n + earlier
        self._earlier += earlier
        self._info = info
        now = self._clock()
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            self._write(self._line(now))

    def text(self) -> str:
        """Return how far it is; before the first step, what is being done."""
        return self._line(self._clock()) if self._done > self._earlier else self._description

    def _line(self, now: float) -> str:
        """Render count, rate, time left and whatever the loop reports."""
        done, elapsed_s = self._done - self._earlier, now - self._started
        rate = done / elapsed_s if elapsed_s > 0 else 0.0
        of = f"/{value_text(int(self._total))}" if self._total is not None else ""
        parts = [value_text(int(self._done)) + of, rate_text(rate, self._unit)]
        if self._total is not None and rate > 0:
            parts.append(f"{value_text(round(max(self._total - self._done, 0) / rate))} s left")
        parts += [f"{key} {value_text(value)}" for key, value in self._info.items()]
        return f"{self._description}: {', '.join(parts)}"


def rate_text(per_second: float, unit: str) -> str:
    """Return a rate as one reads it; half a token says nothing.

    Example:
        >>> rate_text(1234.5, "tokens"), rate_text(0.25, "")
        ('1,234 tokens/s', '0.25/s')
    """
    return f"{value_text(round(per_second) if per_second >= 100 else per_second)}{unit and ' ' + unit}/s"


def _info_text(info: Mapping[str, object]) -> str:
    """Render what a loop reports, beside its bar."""
    return "  ".join(f"{key} {value_text(value)}" for key, value in info.items())


@contextmanager
def _lines(description: str, total: Number | None, unit: str) -> Iterator[Advance]:
    """Write lines on stderr."""

    def write(text: str) -> None:
        PULSE.said()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    yield Lines(description, total, unit=unit, write=write, clock=time.monotonic)


@contextmanager
def _notebook_bar(description: str, total: Number | None, unit: str) -> Iterator[Advance]:
    """Show tqdm's bar in a notebook."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm asks for ipywidgets and does without
        from tqdm.auto import tqdm

    with tqdm(desc=description, total=total, unit=f" {unit or 'steps'}", unit_scale=True, leave=False) as bar:

        def advance(n: Number = 1, /, *, earlier: Number = 0, **info: object) -> None:
            bar.initial += earlier  # not part of the rate
            bar.update(n + earlier)
            if info:
                bar.set_postfix_str(_info_text(info), refresh=False)

        yield advance


@contextmanager
def _terminal_bar(description: str, total: Number | None, unit: str) -> Iterator[Advance]:
    """Show rich's bar on a terminal; it goes away when the loop is over."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Rate(ProgressColumn):
        """Steps per second."""

        def render(self, task: Task) -> Text:
            return Text(rate_text(float(task.speed), unit) if task.speed else "", style="progress.data.speed")

    text = TextColumn("{task.description}")
    info_column = TextColumn("{task.fields[info]}", markup=False)
    columns = (text, BarColumn(), TaskProgressColumn(show_speed=True), Rate(), TimeLeft(), info_column)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, info="")

        def advance(n: Number = 1, /, *, earlier: Number = 0, **info: object) -> None:
            if earlier:
                bar.reset(task, completed=int(bar.tasks[task].completed + earlier))  # the rate starts here
                return
            bar.update(task, advance=n, info=_info_text(info))

        yield advance
