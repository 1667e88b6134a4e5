"""What a command prints: the result on stdout (a table, or one JSON object), progress and notes on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 10.0  # how often progress writes a line where stderr is not a terminal
PIPE_WIDTH = 160  # columns of a table where stdout is not a terminal, so that paths stay whole


class Advance(Protocol):
    """What a loop calls after each step."""

    def __call__(self, n: float = 1, *, earlier: float = 0, **info: object) -> None:
        """Move on by `n` and show `info`, such as `fvu=0.31`; what an `earlier` run did counts, but not in the rate."""
        ...


def emit(
    result: Mapping[str, Any],
    *,
    as_json: bool,
    title: str,
    rows: Iterable[Sequence[object]] | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Print a command's result on stdout.

    Args:
        result: Everything there is to say; `--json` prints it whole, NaN and Inf as null.
        as_json: One JSON object instead of a table.
        title: Line over the table.
        rows: What the table shows; by default the scalars of `result`, one per row, those with `NAME_low` and
            `NAME_high` beside them with their interval.
        columns: Heads of the table's columns; a table of two columns needs none.
    """
    if as_json:
        click.echo(json_text(result))
        return
    shown = scalar_rows(result) if rows is None else rows
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(result_table(title, shown, columns))


def scalar_rows(result: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the scalars of a result by name, an interval in the row of its figure.

    Example:
        >>> scalar_rows({"fvu": 0.25, "fvu_low": 0.2, "fvu_high": 0.3, "n": 7, "list": [1]})
        [('fvu', '0.25 [0.2, 0.3]'), ('n', 7)]
    """
    ends = ("_low", "_high")
    known = {name for name in result if all(name + end in result for end in ends)}
    limits = {name + end for name in known for end in ends}
    rows: list[tuple[str, object]] = []
    for name, value in result.items():
        if name not in limits and not isinstance(value, Mapping | list | tuple):
            low, high = (result.get(name + end) for end in ends)
            has_interval = name in known and low is not None and math.isfinite(low)
            rows.append((name, f"{show(value)} [{show(low)}, {show(high)}]" if has_interval else value))
    return rows


def json_text(result: Mapping[str, Any]) -> str:
    """Return one JSON object; NaN and Inf become null, paths text, arrays lists.

    Example:
        >>> json_text({"fvu": float("nan")})
        '{"fvu": null}'
    """
    from sae_train.runs import jsonable  # imports torch, which by now the command has done

    return json.dumps(jsonable(result), ensure_ascii=False, allow_nan=False)


def result_table(title: str, rows: Iterable[Sequence[object]], columns: Sequence[str] | None = None) -> Table:
    """Return a table; numbers stand on the right."""
    body = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=bool(columns))
    for i in range(max([len(columns or ()), *(len(row) for row in body)])):
        values = [row[i] for row in body if i < len(row)]
        is_number = bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        table.add_column(columns[i] if columns else "", justify="right" if is_number else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(show(value)) for value in row))
    return table


def show(value: object) -> str:
    """Return a value as one reads it.

    Example:
        >>> [show(v) for v in (1234567, 0.123456, True, None, float("nan"), ("a", 2))]
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
        return ", ".join(show(v) for v in value)
    return str(value)


def note(text: str) -> None:
    """Say something on stderr, beside the result."""
    click.echo(text, err=True)


@contextmanager
def progress(description: str, total: float | None = None, *, unit: str = "") -> Iterator[Advance]:
    """Show how far a loop is, how fast, and how long it still takes, on stderr.

    On a terminal this is a bar that goes away; elsewhere a line about every ten seconds and none for loops
    that end before.

    Args:
        description: What is being done, in a word or two.
        total: Steps to do; None where nobody knows.
        unit: What is counted, for the rate: `tokens` shows tokens/s.

    Yields:
        The function the loop calls: `advance(n, fvu=0.31)`.
    """
    if sys.stderr.isatty():
        with _bar(description, total, unit) as advance:
            yield advance
    else:
        yield lined_progress(description, total, unit=unit, write=note, clock=time.monotonic)


def lined_progress(
    description: str, total: float | None, *, unit: str = "", write: Callable[[str], None], clock: Callable[[], float]
) -> Advance:
    """Return an `advance` that writes a line at most every `LINE_EVERY_S` seconds.

    Example:
        >>> seconds = iter([0.0, 1.0, 20.0])
        >>> advance = lined_progress("training", 100, unit="tokens", write=print, clock=lambda: next(seconds))
        >>> advance(10)
        >>> advance(30, fvu=0.25)
        training: 40/100, 2 tokens/s, 30 s left, fvu 0.25
        >>> seconds = iter([0.0, 0.0, 10.0])
        >>> advance = lined_progress("training", 100, unit="tokens", write=print, clock=lambda: next(seconds))
        >>> advance(0, earlier=60)
        >>> advance(20)
        training: 80/100, 2 tokens/s, 10 s left
    """
    started = last = clock()
    done = before = 0.0

    def advance(n: float = 1, *, earlier: float = 0, **info: object) -> None:
        nonlocal done, before, last
        done += n + earlier
        before += earlier
        now = clock()
        if now - last >= LINE_EVERY_S:
            last = now
            write(f"{description}: {_progress_line(done, before, total, now - started, unit, info)}")

    return advance


def _progress_line(
    done: float, before: float, total: float | None, elapsed_s: float, unit: str, info: Mapping[str, object]
) -> str:
    """Render count, rate, time left and whatever the loop reports."""
    rate = (done - before) / elapsed_s if elapsed_s > 0 else 0.0
    parts = [show(int(done)) + (f"/{show(int(total))}" if total is not None else ""), _rate(rate, unit)]
    if total is not None and rate > 0:
        parts.append(f"{show(round(max(total - done, 0) / rate))} s left")
    return ", ".join([*parts, *(f"{key} {show(value)}" for key, value in info.items())])


def _rate(per_second: float, unit: str) -> str:
    """Render a rate; half a token says nothing."""
    return f"{show(round(per_second) if per_second >= 100 else per_second)}{unit and ' ' + unit}/s"


class _RateColumn(ProgressColumn):
    """Steps per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(float(task.speed), self.unit) if task.speed else "", style="progress.data.speed")


@contextmanager
def _bar(description: str, total: float | None, unit: str) -> Iterator[Advance]:
    """Show a bar on a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        _RateColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, info="")

        def advance(n: float = 1, *, earlier: float = 0, **info: object) -> None:
            if earlier:
                bar.reset(task, completed=int(bar.tasks[task].completed + earlier))  # the rate starts here
                return
            bar.update(task, advance=n, info="  ".join(f"{key} {show(value)}" for key, value in info.items()))

        yield advance
