"""Output streams of a command: results (a table or one JSON object) on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_train.run.progress import value_text

PIPE_WIDTH = 160  # columns of a table where stdout is not a terminal, so that paths stay whole


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
            rows.append(
                (name, f"{value_text(value)} [{value_text(low)}, {value_text(high)}]" if has_interval else value)
            )
    return rows


def json_text(result: Mapping[str, Any]) -> str:
    r"""Return one JSON object in ASCII, which every encoding holds; NaN and Inf become null, paths text, arrays lists.

    Example:
        >>> print(json_text({"fvu": float("nan"), "forget": "東京"}))
        {"fvu": null, "forget": "\u6771\u4eac"}
    """
    from sae_train.run.runs import jsonable  # imports torch, which by now the command has done

    return json.dumps(jsonable(result), allow_nan=False)


def result_table(title: str, rows: Iterable[Sequence[object]], columns: Sequence[str] | None = None) -> Table:
    """Return a table; numbers stand on the right."""
    body = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=bool(columns))
    for i in range(max([len(columns or ()), *(len(row) for row in body)])):
        values = [row[i] for row in body if i < len(row)]
        is_number = bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        table.add_column(columns[i] if columns else "", justify="right" if is_number else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(value_text(value)) for value in row))
    return table


@contextmanager
def interruptible(out: Path) -> Iterator[None]:
    """Say how to go on where a store that grows under `out` is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if any(out.parent.glob(f"{escape(out.name)}*.partial")):
            note(f"what is written so far is kept: the same command with --resume continues {out}")
        raise


def note(text: str) -> None:
    """Say something on stderr, beside the result."""
    click.echo(text, err=True)
