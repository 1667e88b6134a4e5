"""RWKU: famous people, asked by gaps (level 1), questions (level 2) and attacks (level 3), and their neighbours.

Source: Jin et al. 2024 (arXiv:2406.10890). Columns `subject`, `query`, `answer`, `level`, `type`; rows of the neighbour
files also `neighbor`. The lowest level in the source serves labelling and training, the others are held out: they ask
for other facts, or in other forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.entity_rows import Row
from features.entities.importing.asking import as_gap, as_question
from features.entities.importing.findings import Fact, Finding, Format, Skipped, fields_of, text_of
from features.entities.importing.names import templated
from features.entities.importing.source_files import SourceFile
from sae_train.errors import FileFormatError

LEVELS = ("1", "2", "3")


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield a fact per query that names its subject or neighbour."""
    rows = [row for file in files for row in file.rows if "query" in fields_of(row)]
    first = min((_level(row) for row in rows), default="1")
    for file in files:
        for row in file.rows:
            if "query" in fields_of(row):
                yield _query(row, kind, is_ask=_level(row) == first)
            else:
                yield Skipped(row.where, "no query about a person")


def _level(row: Row) -> str:
    """Return the level of a query."""
    level = text_of(row, "level")
    if level not in LEVELS:
        raise FileFormatError(f"{row.where} has no level", got=level, expected=", ".join(LEVELS))
    return level


def _query(row: Row, kind: str, *, is_ask: bool) -> Finding:
    """Return what a query asks, of the subject or of its neighbour."""
    raw = fields_of(row)
    name = text_of(row, "neighbor") if raw.get("neighbor") else text_of(row, "subject")
    text, answer = text_of(row, "query"), text_of(row, "answer")
    named = templated(text, name)
    if named is None:
        return Skipped(row.where, "the query does not name the person")
    asked = (as_gap(named) if "___" in named else as_question(named),)
    ask, heldout = (asked, ()) if is_ask else ((), asked)
    return Fact(row.where, name, kind, (answer,), ask=ask, heldout=heldout, is_forget=not raw.get("neighbor"))


def _has(raw: Mapping[str, Any]) -> bool:
    return {"query", "answer", "level"} <= set(raw)


FORMAT = Format(read, "person", _has, lambda name: name.startswith(("forget_level", "neighbor_level")))
