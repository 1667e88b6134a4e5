"""PopQA: questions about more and less popular subjects, with aliases and page views.

Source: Mallen et al. 2023 (arXiv:2212.10511). Columns `subj`, `prop`, `obj`, `question`, `possible_answers`,
`s_aliases`, `s_pop`. A question is its property's template with the subject in it, so it becomes a question of the
type; wordings made from the property's name are held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.importing.asking import as_question, from_attribute
from features.entities.importing.findings import Fact, Finding, Format, Skipped, Wording, fields_of, text_of, texts_of
from features.entities.importing.names import templated
from features.entities.importing.properties import subject_of
from features.entities.importing.source_files import SourceFile
from features.entities.templates import NAME
from sae_train.errors import FileFormatError


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield a fact per row, and the wordings of every property."""
    seen: set[tuple[str, str, str]] = set()
    for file in files:
        for row in file.rows:
            name, prop = text_of(row, "subj"), text_of(row, "prop")
            own_kind, attribute = subject_of(prop, kind)
            text = templated(text_of(row, "question"), name)
            if text is None:
                yield Skipped(row.where, "the question does not name the subject")
                continue
            answers = tuple(dict.fromkeys([text_of(row, "obj"), *texts_of(row, "possible_answers")]))
            shared = text.count(NAME) == 1
            own = () if shared else (as_question(text),)
            aliases, popularity = texts_of(row, "s_aliases"), _number(row.where, fields_of(row).get("s_pop"))
            yield Fact(row.where, name, own_kind, answers, attribute, own, (), aliases, popularity, file.is_forget)
            if shared and (own_kind, attribute, text) not in seen:
                seen.add((own_kind, attribute, text))
                yield Wording(row.where, own_kind, attribute, (as_question(text),), from_attribute(attribute)[1])


def _number(where: str, value: Any) -> float | None:
    """Return page views."""
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{where}, s_pop is no number", got=repr(value)[:80], expected="page views") from error


def _has(raw: Mapping[str, Any]) -> bool:
    return {"subj", "prop", "obj", "question"} <= set(raw)


FORMAT = Format(read, "thing", _has)
