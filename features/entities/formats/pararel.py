"""ParaRel: facts by relation (`P19.facts.jsonl`) and patterns that paraphrase it (`P19.patterns.jsonl`).

Source: Elazar et al. 2021 (arXiv:2102.01017). Facts have `sub_label` and `obj_label`, patterns `pattern`, with `[X]`
for the subject and `[Y]` for the object. Only patterns that end with the object can be asked; every third of them is
held out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.importing.asking import from_attribute, parted
from features.entities.importing.findings import Fact, Finding, Format, Skipped, Wording, fields_of, text_of
from features.entities.importing.properties import subject_of
from features.entities.importing.source_files import SourceFile
from features.entities.templates import NAME

_RELATION = re.compile(r"(p\d+)\b", re.IGNORECASE)


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield the facts and wordings of every relation."""
    with_patterns = set()
    for file in files:
        own_kind, attribute = _relation(file, kind)
        patterns: list[tuple[str, str]] = []
        for row in file.rows:
            if "pattern" not in fields_of(row):
                subject, answer = text_of(row, "sub_label"), text_of(row, "obj_label")
                yield Fact(row.where, subject, own_kind, (answer,), attribute)
            elif (text := _asked(text_of(row, "pattern"))) is not None:
                patterns.append((row.where, text))
            else:
                yield Skipped(row.where, "the pattern does not end with the object")
        if patterns:
            with_patterns.add((own_kind, attribute))
            ask, heldout = parted(list(dict.fromkeys(text for _, text in patterns)))
            for where, text in patterns:
                yield Wording(where, own_kind, attribute, *(((text,), ()) if text in ask else ((), (text,))))
    yield from _without_patterns(files, kind, with_patterns)


def _relation(file: SourceFile, kind: str) -> tuple[str, str]:
    """Return the type of the subjects and the attribute of a file, by its name."""
    found = _RELATION.match(file.name)
    return subject_of(found[1].upper() if found else file.name.split(".")[0], kind)


def _without_patterns(files: Sequence[SourceFile], kind: str, has: set[tuple[str, str]]) -> Iterator[Finding]:
    """Yield wordings made from the attribute's name for relations that came without patterns."""
    for file in files:
        own_kind, attribute = _relation(file, kind)
        if (own_kind, attribute) not in has and file.rows:
            yield Wording(file.rows[0].where, own_kind, attribute, *from_attribute(attribute))


def _asked(pattern: str) -> str | None:
    """Return a pattern as a template; None where the object is not at its end.

    Example:
        >>> _asked("[X] was born in [Y]."), _asked("[Y] is where [X] was born.")
        ('{name} was born in', None)
    """
    front = re.sub(r"\s*\.?\s*$", "", pattern)
    if not front.endswith("[Y]") or front.count("[X]") != 1 or front.count("[Y]") != 1:
        return None
    text = front.removesuffix("[Y]").rstrip().replace("[X]", NAME)
    return text if "{" not in text.replace(NAME, "") else None


def _has(raw: Mapping[str, Any]) -> bool:
    return {"sub_label", "obj_label"} <= set(raw) or "pattern" in raw


FORMAT = Format(read, "thing", _has, lambda name: name.endswith(".jsonl"))
