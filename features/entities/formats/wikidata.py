"""Entities of Wikidata, one a row: `name` and columns of properties; every text that can be said is a fact.

Numbers and coordinates are no facts, since an answer that names them word for word says little; `population` orders the
entities. Of namesakes the first one is kept, in such files the most popular.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.importing.asking import from_attribute
from features.entities.importing.findings import Fact, Finding, Format, Skipped, Wording, fields_of, text_of, texts_of
from features.entities.importing.source_files import SourceFile

_NO_FACT = re.compile(r"Point\(.*\)|[-+\d.,:\sTZ]+|https?://\S+|Q\d+")
_POPULARITY = ("population", "popularity")
_OWN = ("name", "type", "aliases", *_POPULARITY)


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield a fact per column with a text."""
    seen: set[tuple[str, str]] = set()
    worded: set[tuple[str, str]] = set()
    for file in files:
        for row in file.rows:
            raw, name = fields_of(row), text_of(row, "name")
            own_kind = text_of(row, "type") if raw.get("type") else kind
            if (own_kind, name) in seen:
                yield Skipped(row.where, "a namesake of one before it")
                continue
            facts = {a: v for a in raw if a not in _OWN and (v := _values(raw[a]))}
            if not facts:
                yield Skipped(row.where, "no column with a text that could be an answer")
                continue
            seen.add((own_kind, name))
            aliases = texts_of(row, "aliases")
            numbers = (_number(raw.get(p)) for p in _POPULARITY)
            popularity = next((n for n in numbers if n is not None), None)
            for attribute, values in facts.items():
                yield Fact(row.where, name, own_kind, values, attribute, (), (), aliases, popularity)
                if (own_kind, attribute) not in worded:
                    worded.add((own_kind, attribute))
                    yield Wording(row.where, own_kind, attribute, *from_attribute(attribute))


def _values(cell: Any) -> tuple[str, ...]:
    """Return the texts of a cell that can be answers."""
    values = cell if isinstance(cell, list) else [cell]
    return tuple(v.strip() for v in values if isinstance(v, str) and v.strip() and not _NO_FACT.fullmatch(v.strip()))


def _number(value: Any) -> float | None:
    """Return a number, also one written as a text; None for everything else."""
    try:
        return None if isinstance(value, bool) or value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None


def _has(raw: Mapping[str, Any]) -> bool:
    return (
        "name" in raw
        and not {"type", "facts"} & set(raw)
        and any(isinstance(v, str) for k, v in raw.items() if k != "name")
    )


FORMAT = Format(read, "city", _has)
