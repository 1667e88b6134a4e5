"""TOFU: questions about made-up authors, the questions about one author in a row; the name is found in the texts.

Source: Maini et al. 2024 (arXiv:2401.06121). Columns `question`, `answer`, in the perturbed files also
`paraphrased_question` (held out here), `paraphrased_answer` (accepted, too) and `perturbed_answer` (not used).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.formats.qa import question
from features.entities.importing.findings import Finding, Format, Skipped, text_of
from features.entities.importing.names import names_in, templated
from features.entities.importing.source_files import SourceFile

BLOCK = 20  # questions about an author
LONGEST_GAP = 4  # rows in a row that speak of an author as "she"
FRAC_NAMED = 0.6  # of an author's rows have the name, or a part of it
_FIRST = 3  # rows among which an author is named in full


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield a fact per question that names its author."""
    for file in files:
        texts = [(text_of(row, "question"), text_of(row, "answer")) for row in file.rows]
        for row, name in zip(file.rows, authors(texts), strict=True):
            if name is None:
                yield Skipped(row.where, "no author found in question and answer")
            else:
                yield question(row, name, kind, is_forget=file.is_forget)


def authors(texts: Sequence[tuple[str, str]]) -> list[str | None]:
    """Return whom each question with its answer is about, by the name that the texts from there on share.

    Texts without a name belong to the author before them; None are those where there is none.

    Example:
        >>> authors([("Who is the poet?", "Mira Tolvan."), ("Where does Tolvan live?", "In Velmora."),
        ...          ("Does she sing?", "Yes."), ("Is Edo Karvin a critic?", "Yes."), ("Did Karvin study?", "Yes.")])
        ['Mira Tolvan', 'Mira Tolvan', 'Mira Tolvan', 'Edo Karvin', 'Edo Karvin']
    """
    found: list[str | None] = []
    while len(found) < len(texts):
        name, first, end = _author_from(texts[len(found) : len(found) + BLOCK])
        before = found[-1] if found else name
        found += [*[before] * first, *[name] * (end - first)]
    return found


def _author_from(ahead: Sequence[tuple[str, str]]) -> tuple[str | None, int, int]:
    """Return the name that most of the next texts share, the first one that has it and the end of those that do."""
    candidates = dict.fromkeys(name for text in ahead[:_FIRST] for part in text for name in names_in(part))
    best: tuple[tuple[int, int, int, int], str, int, int] | None = None
    for name in candidates:
        rows = _named_in(ahead, name)
        if len(rows) < min(2, len(ahead)) or rows[0] >= _FIRST or len(rows) < FRAC_NAMED * (rows[-1] + 1 - rows[0]):
            continue
        if not any(_is_named(ahead[row][:1], name) for row in rows):  # what no question names nobody asks about
            continue
        in_full = sum(any(name in part for part in ahead[row]) for row in rows)
        score = (len(rows), in_full, -rows[0], len(name))
        if best is None or score > best[0]:
            best = score, name, rows[0], rows[-1] + 1
    return (None, 0, 1) if best is None else best[1:]


def _named_in(texts: Sequence[tuple[str, str]], name: str) -> list[int]:
    """Return the texts that name somebody, in full or in part, up to the first long gap."""
    rows: list[int] = []
    for index, text in enumerate(texts):
        if index - (rows[-1] if rows else -1) > LONGEST_GAP:
            break
        if _is_named(text, name):
            rows.append(index)
    return rows


def _is_named(parts: Sequence[str], name: str) -> bool:
    """Tell whether one of the texts has a name, in full or in part."""
    return any(templated(re.sub(r"[{}]", "", part), name) is not None for part in parts)


def _has(raw: Mapping[str, Any]) -> bool:
    return {"question", "answer"} <= set(raw) and not {"choices", "name", "subject", "entity"} & set(raw)


FORMAT = Format(read, "author", _has)
