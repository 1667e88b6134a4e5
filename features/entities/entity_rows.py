"""Rows of an entity set from JSON lines, CSV or a hub dataset, each with its place for error messages.

A table has the columns `name` and `type`, and may have `aliases` and `popularity`; every other column is a fact. A cell
with several values parts them by `;`; an empty cell is no value.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_train.errors import FileFormatError
from sae_train.text.tokens import hub_rows
from sae_train.text_files import json_of, read_lines

_OWN = ("name", "type", "aliases", "popularity", "facts", "label", "answers", "samples", "seen", "name_tokens")
_SEVERAL = ";"


class Row(NamedTuple):
    """One row.

    Attributes:
        where: Its place, as a message calls it: "line 3 of 'cities.csv'".
        raw: The fields of an entity, unchecked.
    """

    where: str
    raw: Any


def read_rows(source: Path | str) -> Iterator[Row]:
    """Yield the rows of a file (`.csv`, `.csv.gz`, anything else is JSON lines) or, for a text, of a hub dataset.

    Raises:
        FileFormatError: A line is not JSON, or the table has no usable head.
    """
    if isinstance(source, str):
        return _hub(source)
    if source.name.lower().endswith((".csv", ".csv.gz")):
        return _csv(source)
    return json_rows(read_lines(source), source)


def json_rows(lines: Iterable[str], where: Path | str, *, expected: str = '{"name": …}') -> Iterator[Row]:
    """Read one JSON object per line.

    Args:
        lines: The lines of a file.
        where: What the file is called in messages.
        expected: A row, for the message.

    Raises:
        FileFormatError: A line is not JSON.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number} of '{where}'"
        try:
            yield Row(place, json_of(line))
        except ValueError as error:
            raise FileFormatError(
                f"{place} cannot be read as JSON", got=f"{line.strip()[:80]} ({error})", expected=expected
            ) from error


def table_rows(
    lines: Iterable[str],
    where: Path | str,
    *,
    delimiter: str = ",",
    check_head: Callable[[list[str], Path | str], None] = lambda head, where: None,
) -> Iterator[Row]:
    """Read a table whose first row names the columns; rows hold the cells as text, by column.

    Args:
        lines: The lines of a file, with their ends.
        where: What the file is called in messages.
        delimiter: What parts the cells.
        check_head: Refuses names of columns.

    Raises:
        FileFormatError: A line is no row of such a table.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        head = [cell.strip() for cell in next(reader, [])]
        check_head(head, where)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            place = f"line {reader.line_num} of '{where}'"
            if len(cells) != len(head):
                raise FileFormatError(
                    f"{place} does not fit the head", got=f"{len(cells)} cells", expected=", ".join(head)
                )
            yield Row(place, dict(zip(head, cells, strict=True)))
    except csv.Error as error:
        kind, parted = ("TSV", "tabs") if delimiter == "\t" else ("CSV", "commas")
        raise FileFormatError(
            f"line {reader.line_num} of '{where}' is not {kind}", got=str(error), expected=f"cells parted by {parted}"
        ) from error


def _csv(path: Path) -> Iterator[Row]:
    """Read a table of entities."""
    rows = table_rows(read_lines(path), path, check_head=_check_head)
    return (Row(where, from_columns(raw)) for where, raw in rows)


def _check_head(head: list[str], path: Path | str) -> None:
    """Refuse a table without name and type, or with a column twice or unnamed."""
    if not {"name", "type"} <= set(head) or len(set(head)) < len(head) or "" in head:
        raise FileFormatError(
            f"the first line of '{path}' names no usable columns",
            got=", ".join(head) or "nothing",
            expected="name, type, then aliases, popularity and one column per fact, each once",
        )


def _hub(name: str) -> Iterator[Row]:
    """Stream a hub dataset's rows."""
    for number, row in enumerate(hub_rows(name, field="entities"), start=1):
        yield Row(f"row {number} of '{name}'", from_columns(row))


def from_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the columns of a table into the fields of an entity; unknown columns are facts.

    Example:
        >>> from_columns({"name": "Nairobi", "type": "city", "country": "Kenya;KE", "river": "", "popularity": "4e6"})
        {'name': 'Nairobi', 'type': 'city', 'popularity': 4000000.0, 'facts': {'country': ['Kenya', 'KE']}}
    """
    found = {k: v for k, v in row.items() if k in _OWN and v not in (None, "", [])}
    if isinstance(found.get("aliases"), str):
        found["aliases"] = _values(found["aliases"])
    if isinstance(found.get("popularity"), str):
        found["popularity"] = _number(found["popularity"])
    own = found.pop("facts", {})
    if not isinstance(own, Mapping):  # a cell of a column of that name: the check of the row refuses it
        return {**found, "facts": own}
    facts = dict(own)
    for column, cell in row.items():
        if column not in _OWN and (values := _values(cell)):
            facts[column] = values
    return {**found, "facts": facts}


def _values(cell: Any) -> list[Any]:
    """Return the values in a cell; a number is its own text."""
    if cell is None:
        return []
    if isinstance(cell, list):
        return [v for v in cell if v not in (None, "")]
    if not isinstance(cell, str | int | float):
        return [cell]  # bytes, a record, a picture: the check of the row refuses it
    return [part.strip() for part in str(cell).split(_SEVERAL) if part.strip()]


def _number(text: str) -> float | str:
    """Return the number a text holds, or the text, which the check of the row then refuses."""
    try:
        return float(text.replace(",", "").replace("_", ""))
    except ValueError:
        return text
