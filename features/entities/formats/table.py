"""A table of entities of our own form, CSV or TSV: `name`, `type`, `aliases`, `popularity`, a column a fact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.entities import parse_entity
from features.entities.entity_rows import from_columns
from features.entities.importing.asking import from_attribute
from features.entities.importing.findings import Fact, Finding, Format, Skipped, Wording, fields_of
from features.entities.importing.source_files import SourceFile


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield a fact per cell, and wordings made from the names of the columns."""
    worded: set[tuple[str, str]] = set()
    for file in files:
        for row in file.rows:
            raw = from_columns(fields_of(row))
            entity = parse_entity(raw | {"type": raw.get("type") or kind}, row.where)
            if not entity.facts:
                yield Skipped(row.where, "no fact")
            for attribute, values in entity.facts.items():
                aliases = tuple(entity.aliases)
                yield Fact(
                    row.where, entity.name, entity.type, tuple(values), attribute, (), (), aliases,
                    entity.popularity, file.is_forget,
                )  # fmt: skip
                if (entity.type, attribute) not in worded:
                    worded.add((entity.type, attribute))
                    yield Wording(row.where, entity.type, attribute, *from_attribute(attribute))


def _has(raw: Mapping[str, Any]) -> bool:
    return {"name", "type"} <= set(raw)


FORMAT = Format(read, "thing", _has)
