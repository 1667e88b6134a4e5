"""What a format finds in a row: a fact about an entity, a wording of a type, or a reason why nothing can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.entities.entity_rows import Row
from features.entities.importing.source_files import SourceFile
from sae_train.errors import FileFormatError
from sae_train.text_files import json_of


@dataclass(frozen=True)
class Fact:
    """One thing that can be asked of an entity.

    Attributes:
        where: Place of the row.
        name: The entity's name.
        kind: Its type.
        answers: Accepted answers, the first one for rankings.
        attribute: What is asked; None for a question that has no name: the entity's own get numbers.
        ask: Questions in words of this entity's own; none where the type's are asked.
        heldout: The same in other words, for evaluation.
        aliases: Other names.
        popularity: How well known it is.
        is_forget: The source says that it is to be forgotten.
    """

    where: str
    name: str
    kind: str
    answers: tuple[str, ...]
    attribute: str | None = None
    ask: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    popularity: float | None = None
    is_forget: bool = False


@dataclass(frozen=True)
class Wording:
    """Questions that are asked of every entity of a type."""

    where: str
    kind: str
    attribute: str
    ask: tuple[str, ...]
    heldout: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A row, or a part of one (`is_part`), that cannot be used, and why."""

    where: str
    reason: str
    is_part: bool = False


Finding = Fact | Wording | Skipped


@dataclass(frozen=True)
class Format:
    """How files of a benchmark are read.

    Attributes:
        read: Files, and the type of entities whose rows name none -> what is in them.
        kind: That type where the caller names none; None: only rows that name one can be read.
        has: Tells by one row whether a file is of this format.
        wanted: Tells by its name which file of a folder or an archive belongs to it.
    """

    read: Callable[[Sequence[SourceFile], str], Iterator[Finding]]
    kind: str
    has: Callable[[Mapping[str, Any]], bool]
    wanted: Callable[[str], bool] = lambda name: True


def fields_of(row: Row) -> dict[str, Any]:
    """Return the fields of a row.

    Raises:
        FileFormatError: It has none.
    """
    if not isinstance(row.raw, dict):
        raise FileFormatError(f"{row.where} is no row", got=type(row.raw).__name__, expected="a JSON object")
    return row.raw


def text_of(row: Row, *fields: str) -> str:
    """Return the first of these fields that is there, stripped.

    Raises:
        FileFormatError: None of them is a text with something in it.
    """
    raw = fields_of(row)
    value = next((raw[name] for name in fields if raw.get(name) is not None), None)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise FileFormatError(
            f"{row.where} has no {' or '.join(fields)}", got=repr(value)[:80], expected="a text that is not empty"
        )
    return value.strip()


def texts_of(row: Row, *fields: str) -> tuple[str, ...]:
    """Return the texts of the first of these fields that is there: a list, a list written as JSON, or one text.

    Raises:
        FileFormatError: It is something else.
    """
    raw = fields_of(row)
    value = next((raw[name] for name in fields if raw.get(name) not in (None, "")), [])
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json_of(value)
        except ValueError:
            value = [value]
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise FileFormatError(
            f"{row.where} has no usable {' or '.join(fields)}",
            got=repr(value)[:80],
            expected="a text or a list of texts",
        )
    return tuple(v.strip() for v in values if v.strip())


def answers_of(row: Row, *fields: str) -> tuple[str, ...]:
    """Return the texts of the first of these fields that is there, at least one.

    Raises:
        FileFormatError: There is none.
    """
    found = texts_of(row, *fields)
    if not found:
        raise FileFormatError(
            f"{row.where} has no {' or '.join(fields)}", got=repr(row.raw)[:80], expected="a text that is not empty"
        )
    return found
