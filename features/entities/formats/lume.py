"""LUME (SemEval-2025 task 4): documents about persons to be continued, and questions about them.

Columns `id`, `input`, `output`, `task`. Rows of one document share the beginning of their id: `…sc1` is its beginning
with its continuation, `…qa0` a question. Questions serve labelling and training, continuations are held out. The
stories of Task1 are about several people at once, so they have no entity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.entity_rows import Row
from features.entities.importing.asking import as_question
from features.entities.importing.findings import Fact, Finding, Format, Skipped, text_of
from features.entities.importing.names import names_in, templated
from features.entities.importing.sentences import accepted
from features.entities.importing.source_files import SourceFile
from sae_train.errors import FileFormatError

_ID = re.compile(r"(.+?)(sc|qa)\d+")


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield a fact per question and per continuation."""
    for file in files:
        names = _names(file.rows)
        for row in file.rows:
            document, part = _parted(row)
            if text_of(row, "task").lower() == "task1":
                yield Skipped(row.where, "a story about several people")
            elif document not in names:
                yield Skipped(row.where, "no person found in the document")
            else:
                yield _fact(row, part, names[document], kind, is_forget=file.is_forget)


def _parted(row: Row) -> tuple[str, str]:
    """Return the document of a row and whether it is a continuation (`sc`) or a question (`qa`)."""
    found = _ID.fullmatch(text_of(row, "id"))
    if found is None:
        raise FileFormatError(f"{row.where} has no usable id", got=text_of(row, "id")[:80], expected="…sc1 or …qa0")
    return found[1], found[2]


def _names(rows: Sequence[Row]) -> dict[str, str]:
    """Return the person of every document: its title, else the first name in its beginning, else in a question."""
    found: dict[str, str] = {}
    for row in sorted(rows, key=lambda r: _parted(r)[1] == "qa"):
        document, part = _parted(row)
        if document not in found:
            text = text_of(row, "input")
            title = re.sub(r"\s*\(.*\)$", "", text.split("\n\n")[0].strip())
            names = [title] if part == "sc" and "\n\n" in text and title else names_in(text)
            if names:
                found[document] = names[-1] if part == "qa" else names[0]
    return found


def _fact(row: Row, part: str, name: str, kind: str, *, is_forget: bool) -> Finding:
    """Return what a row says about the person of its document."""
    text = templated(text_of(row, "input"), name)
    if text is None:
        return Skipped(row.where, "the text does not name the person")
    answers = accepted([text_of(row, "output")])
    if part == "qa":
        return Fact(row.where, name, kind, answers, ask=(as_question(text),), is_forget=is_forget)
    return Fact(row.where, name, kind, answers, "continuation", heldout=(text,), is_forget=is_forget)


def _has(raw: Mapping[str, Any]) -> bool:
    return {"id", "input", "output", "task"} <= set(raw)


FORMAT = Format(read, "person", _has)
