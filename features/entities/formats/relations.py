"""Relations: a JSON file each, with samples (`subject`, `object`) and prompt templates with `{}` for the subject.

Source: Hernandez et al. 2024 (arXiv:2308.09124), files of evandez/relations. The first word of the relation's name is
the type (`landmark_in_country`), or `properties.domain_name`; the last one the attribute, or `properties.range_name`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.entities.entity_rows import Row
from features.entities.importing.asking import from_attribute
from features.entities.importing.findings import (
    Fact,
    Finding,
    Format,
    Wording,
    answers_of,
    fields_of,
    text_of,
    texts_of,
)
from features.entities.importing.source_files import SourceFile
from features.entities.templates import NAME
from sae_train.errors import FileFormatError


def read(files: Sequence[SourceFile], kind: str) -> Iterator[Finding]:
    """Yield a fact per sample, and the relation's wordings."""
    for file in files:
        for row in file.rows:
            yield from _relation(row, file.name, kind)


def _relation(row: Row, file_name: str, kind: str) -> Iterator[Finding]:
    """Yield what one relation holds."""
    raw = fields_of(row)
    words = str(raw.get("relation") or raw.get("name") or file_name.split(".")[0]).replace(" ", "_").split("_")
    given = raw.get("properties")
    properties = given if isinstance(given, dict) else {}
    own_kind = str(properties.get("domain_name") or (words[0] if len(words) > 1 else kind))
    attribute = str(properties.get("range_name") or words[-1])
    if not isinstance(raw.get("samples"), list) or not raw["samples"]:
        raise FileFormatError(f"{row.where} has no samples", got=repr(raw.get("samples"))[:80], expected="a list")
    for number, sample in enumerate(raw["samples"], start=1):
        one = Row(f"sample {number} of {row.where}", sample)
        yield Fact(one.where, text_of(one, "subject"), own_kind, answers_of(one, "object"), attribute)
    ask = [t.replace("{}", NAME) for t in texts_of(row, "prompt_templates") if t.count("{}") == 1]
    others = [t.replace("{}", NAME) for t in texts_of(row, "prompt_templates_zs") if t.count("{}") == 1]
    made_ask, made_heldout = from_attribute(attribute)
    heldout = [t for t in others if t not in ask] or list(made_heldout)
    yield Wording(f"sample 1 of {row.where}", own_kind, attribute, tuple(ask or made_ask), tuple(heldout))


def _has(raw: Mapping[str, Any]) -> bool:
    return "samples" in raw and ("prompt_templates" in raw or "relation" in raw or "name" in raw)


FORMAT = Format(read, "thing", _has)
