"""Questions and answers about named entities: one row a question, the name in a column of its own.

Columns: `name` (or `subject`, `entity`), `question`, `answer` (a text) or `answers` (a list); where they are there,
also `paraphrased_question` or `paraphrases`, `paraphrased_answer`, `type`, `aliases`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.entity_rows import Row
from features.entities.importing.asking import as_question
from features.entities.importing.findings import (
    Fact,
    Finding,
    Format,
    Skipped,
    answers_of,
    fields_of,
    text_of,
    texts_of,
)
from features.entities.importing.names import templated
from features.entities.importing.sentences import accepted
from features.entities.importing.source_files import SourceFile

NAMES = ("name", "subject", "entity")


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield a fact per question that names its entity."""
    for file in files:
        for row in file.rows:
            own_kind = text_of(row, "type") if fields_of(row).get("type") else kind
            yield question(row, text_of(row, *NAMES), own_kind, is_forget=file.is_forget)


def question(row: Row, name: str, kind: str, *, is_forget: bool) -> Finding:
    """Return what a row with a question and an answer says about an entity.

    Raises:
        FileFormatError: There is no question or no answer.
    """
    text = templated(text_of(row, "question"), name)
    answers = (*answers_of(row, "answer", "answers"), *texts_of(row, "paraphrased_answer"))
    others = [templated(t, name) for t in texts_of(row, "paraphrased_question", "paraphrases")]
    heldout = tuple(as_question(t) for t in others if t is not None)
    if text is None:
        return Skipped(row.where, "the question does not name the entity")
    return Fact(
        row.where,
        name,
        kind,
        accepted(answers),
        ask=(as_question(text),),
        heldout=heldout,
        aliases=texts_of(row, "aliases"),
        is_forget=is_forget,
    )


def _has(raw: Mapping[str, Any]) -> bool:
    return "question" in raw and ("answer" in raw or "answers" in raw) and any(name in raw for name in NAMES)


FORMAT = Format(read, "person", _has)
