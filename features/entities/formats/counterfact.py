"""CounterFact: one fact a row with its prompt, paraphrases and neighbours; also the flat rows of ROME's known facts.

Source: Meng et al. 2022 (arXiv:2202.05262). `requested_rewrite` holds `subject`, `relation_id`, `prompt` with `{}` for
the subject, and `target_true`, the fact; `target_new`, the edit, is not used. `paraphrase_prompts` are held out. A
subject in `neighborhood_prompts` has the same true answer and becomes an entity of its own, which is not to be
forgotten. The known facts have `subject`, `attribute` (the answer), `prompt` and `relation_id`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.entities.entity_rows import Row
from features.entities.importing.findings import Fact, Finding, Format, Skipped, Wording, fields_of, text_of, texts_of
from features.entities.importing.names import templated
from features.entities.importing.properties import subject_of
from features.entities.importing.source_files import SourceFile
from features.entities.templates import NAME

MOST_SHARED = 4  # prompts of a relation that are asked of its neighbours


@dataclass(frozen=True)
class _Case:
    """A row, read: subject, type, attribute, true answer, prompt as a template, other prompts."""

    row: Row
    subject: str
    kind: str
    attribute: str
    answer: str
    prompt: str | None
    paraphrases: tuple[str, ...]
    neighbours: tuple[str, ...]


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield the facts, the shared wordings of every relation, and the neighbours."""
    cases = [_case(row, kind) for file in files for row in file.rows]
    shared: dict[tuple[str, str], dict[str, None]] = {}
    for case in cases:
        if case.prompt is None:
            yield Skipped(case.row.where, "the prompt does not name the subject")
            continue
        known = shared.setdefault((case.kind, case.attribute), {})
        if len(known) < MOST_SHARED and case.prompt.count(NAME) == 1:
            known.setdefault(case.prompt)
        heldout = [t for p in case.paraphrases if (t := templated(p, case.subject)) is not None]
        answers, own = (case.answer,), (case.prompt,)
        yield Fact(
            case.row.where, case.subject, case.kind, answers, case.attribute, own, tuple(heldout), is_forget=True
        )
    for (own_kind, attribute), prompts in shared.items():
        where = next(c.row.where for c in cases if (c.kind, c.attribute) == (own_kind, attribute) and c.prompt)
        yield Wording(where, own_kind, attribute, tuple(prompts))
    yield from _neighbours([c for c in cases if c.prompt is not None], shared)


def _case(row: Row, kind: str) -> _Case:
    """Read a row of either form."""
    raw = fields_of(row)
    inner = Row(f"requested_rewrite of {row.where}", raw["requested_rewrite"]) if "requested_rewrite" in raw else row
    subject, prompt = text_of(inner, "subject"), text_of(inner, "prompt", "template")
    own_kind, attribute = subject_of(text_of(inner, "relation_id", "relation"), kind)
    target = fields_of(inner).get("target_true")
    if isinstance(target, dict):
        answer = text_of(Row(f"target_true of {row.where}", target), "str")
    else:
        answer = text_of(inner, "attribute" if inner is row else "target_true")
    text = prompt.replace("{}", NAME) if prompt.count("{}") == 1 else templated(prompt, subject)
    others = (texts_of(row, "paraphrase_prompts"), texts_of(row, "neighborhood_prompts"))
    return _Case(row, subject, own_kind, attribute, answer, text, *others)


def _neighbours(cases: Sequence[_Case], shared: Mapping[tuple[str, str], Mapping[str, None]]) -> Iterator[Finding]:
    """Yield the subjects of neighbourhood prompts that are worded like a prompt of the relation."""
    subjects = {(c.kind, c.subject) for c in cases}
    every: dict[tuple[str, str], dict[str, None]] = {}
    for case in cases:
        every.setdefault((case.kind, case.attribute), {}).setdefault(case.prompt or NAME)
    for case in cases:
        for number, prompt in enumerate(case.neighbours, start=1):
            where = f"neighborhood prompt {number} of {case.row.where}"
            name = _subject(prompt, every[case.kind, case.attribute])
            if name is None:
                yield Skipped(where, "worded unlike the prompts of its relation", is_part=True)
            elif (case.kind, name) not in subjects:
                yield Fact(case.row.where, name, case.kind, (case.answer,), case.attribute)


def _subject(prompt: str, templates: Mapping[str, None]) -> str | None:
    """Return what stands in the place of the name; of several ways the shortest one.

    Example:
        >>> _subject("The mother tongue of Mira Tolvan is", {"The mother tongue of {name} is": None})
        'Mira Tolvan'
    """
    found: list[str] = []
    for template in templates:
        front, back = template.split(NAME, 1)
        if NAME not in back and prompt.startswith(front) and prompt.endswith(back):
            name = prompt[len(front) : len(prompt) - len(back)].strip()
            if name and len(front) + len(back) > 3:
                found.append(name)
    return min(found, key=len, default=None)


def _has(raw: Mapping[str, Any]) -> bool:
    return "requested_rewrite" in raw or {"subject", "attribute", "relation_id"} <= set(raw)


FORMAT = Format(read, "thing", _has)
