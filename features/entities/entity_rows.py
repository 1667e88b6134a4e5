"""Rows of an entity set from JSON lines, CSV or a hub dataset, each with its place for error messages.

A table has the columns `name` and `type`, and may have `aliases` and `popularity`; every other column is a fact. A cell
with several values parts them by `;`; an empty cell is no value.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_train.errors import FileFormatError
from sae_train.text.tokens import hub_rows
from sae_train.text_files import read_lines

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
    return _json_lines(source)


def _json_lines(path: Path) -> Iterator[Row]:
    """Read one JSON object per line."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"line {number} of '{path}'"
        try:
            yield Row(where, json.loads(line))
        except json.JSONDecodeError as error:
            raise FileFormatError(f"{where} is not JSON", got=line.strip()[:80], expected='{"name": …}') from error


def _csv(path: Path) -> Iterator[Row]:
    """Read a table whose first row names the columns."""
    reader = csv.reader(read_lines(path), strict=True)
    try:
        head = [cell.strip() for cell in next(reader, [])]
        _check_head(head, path)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"line {reader.line_num} of '{path}'"
            if len(cells) != len(head):
                raise FileFormatError(
                    f"{where} does not fit the head", got=f"{len(cells)} cells", expected=", ".join(head)
                )
            yield Row(where, from_columns(dict(zip(head, cells, strict=True))))
    except csv.Error as error:
        raise FileFormatError(
            f"line {reader.line_num} of '{path}' is not CSV", got=str(error), expected="cells parted by commas"
        ) from error


def _check_head(head: list[str], path: Path) -> None:
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
    facts = dict(found.pop("facts", {}) or {})
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
