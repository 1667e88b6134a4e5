"""Rows of question and answer, with paraphrased and wrong answers where a file has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.entities.entity_rows import Row
from features.entities.importing.source_files import read_source
from sae_train.errors import FileFormatError


@dataclass(frozen=True)
class QaRow:
    """One row.

    Attributes:
        question: The question.
        answer: The true answer.
        paraphrased: The true answer in other words; empty where the file has none.
        wrong: Wrong answers in the form of the true one; empty likewise.
    """

    question: str
    answer: str
    paraphrased: str = ""
    wrong: tuple[str, ...] = ()


def read_qa_rows(source: str | Path, *, field: str) -> list[QaRow]:
    """Read a file of TOFU: JSON, JSON lines, CSV or parquet, plain or gzip, or a hub dataset id.

    Columns `question` and `answer`; `paraphrased_answer` and `perturbed_answer` (a text or a list) may be there.

    Args:
        source: The file.
        field: The option that named it, for messages.

    Raises:
        MissingFileError: It is not there.
        FileFormatError: It cannot be read, or a row (named) is no question with an answer.
    """
    return [_checked(row, field) for file in read_source(source) for row in file.rows]


def _checked(row: Row, field: str) -> QaRow:
    """Check the fields of one row."""
    raw: dict[str, Any] = row.raw if isinstance(row.raw, dict) else {}
    paraphrased, wrong = raw.get("paraphrased_answer") or "", raw.get("perturbed_answer") or ()
    wrong = (wrong,) if isinstance(wrong, str) else wrong
    texts = (raw.get("question"), raw.get("answer"))
    if not all(isinstance(t, str) and t.strip() for t in texts):
        _refuse(row, field, "question and answer, both texts that are not empty")
    if not isinstance(paraphrased, str):
        _refuse(row, field, "a text as paraphrased_answer")
    if not isinstance(wrong, Sequence) or not all(isinstance(w, str) and w.strip() for w in wrong):
        _refuse(row, field, "a text, or a list of texts, as perturbed_answer")
    return QaRow(str(texts[0]), str(texts[1]), paraphrased, tuple(wrong))


def _refuse(row: Row, field: str, expected: str) -> None:
    got = ", ".join(row.raw) if isinstance(row.raw, dict) else type(row.raw).__name__
    raise FileFormatError(f"{row.where} cannot be used", got=got, field=field, expected=expected)
