"""Entity sets and labels: JSON lines in, frozen dataclasses out, every complaint with its row number."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sae_train.errors import EntityError, FileFormatError, nearest_first
from sae_train.lm.tokens import open_text
from sae_train.runs import require_file, write_text

LABELS = ("known", "unknown", "between")


@dataclass(frozen=True)
class Entity:
    """One entity.

    Attributes:
        name: As it is written into prompts.
        type: Which templates ask about it.
        facts: Accepted answers per attribute.
        aliases: Other names of it.
        label: `known`, `unknown` or `between`, once the model has been asked.
        answers: What the model answered, per attribute, in the order of the templates.
        seen: How the model met it, where that is known by construction (`facts`, `name`, `never`).
    """

    name: str
    type: str
    facts: dict[str, list[str]] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    label: str | None = None
    answers: dict[str, list[str]] = field(default_factory=dict)
    seen: str | None = None

    @property
    def key(self) -> str:
        """Return what tells two entities of a set apart."""
        return f"{self.type}:{self.name}"


def load_entities(path: Path, *, need_labels: bool = False) -> list[Entity]:
    """Read an entity or label file.

    Args:
        path: JSON lines, gzip or plain.
        need_labels: Refuse lines without a label.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: A line is not an entity; its number is given.
        EntityError: No entity, or the same one twice.
    """
    require_file(path, "labels" if need_labels else "entities", option="--labels" if need_labels else "--entities")
    found: list[Entity] = []
    for number, line in enumerate(open_text(path), start=1):
        if line.strip():
            found.append(_parse(line, f"line {number} of '{path}'", need_labels))
    if not found:
        raise EntityError(f"no entities in '{path}'", got="an empty file", expected='{"name": …, "type": …} per line')
    twice = [key for key, count in Counter(e.key for e in found).items() if count > 1]
    if twice:
        raise EntityError(
            f"'{path}' names an entity twice", got=", ".join(twice[:5]), expected="each name once in its type"
        )
    return found


def _parse(line: str, where: str, need_label: bool) -> Entity:
    """Check one line, field by field."""
    try:
        raw: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise FileFormatError(f"{where} is not JSON", got=line.strip()[:80], expected='{"name": …}') from error
    if not isinstance(raw, dict):
        raise FileFormatError(f"{where} is not an entity", got=type(raw).__name__, expected="a JSON object")
    for key in ("name", "type"):
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            raise FileFormatError(f"{where} has no {key}", got=repr(raw.get(key)), expected="a text that is not empty")
    facts = raw.get("facts", {})
    if not isinstance(facts, dict):
        raise FileFormatError(f"{where} has no usable facts", got=type(facts).__name__, expected="attribute -> answers")
    answers = {a: [v] if isinstance(v, str) else v for a, v in facts.items()}
    for attribute, values in answers.items():
        if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
            raise FileFormatError(f"{where}, fact '{attribute}'", got=repr(values)[:80], expected="a list of texts")
    aliases, said = raw.get("aliases", []), raw.get("answers", {})
    if not _is_texts(aliases):
        raise FileFormatError(f"{where} has no usable aliases", got=repr(aliases)[:80], expected="a list of texts")
    if not isinstance(said, dict) or not all(map(_is_texts, said.values())):
        raise FileFormatError(f"{where} has no usable answers", got=repr(said)[:80], expected="attribute -> answers")
    label = raw.get("label")
    if (need_label or label is not None) and label not in LABELS:
        raise FileFormatError(
            f"{where} has no usable label",
            got=repr(label),
            expected=", ".join(LABELS),
            try_="wb label-entities …",
        )
    return Entity(
        name=raw["name"],
        type=raw["type"],
        facts=answers,
        aliases=aliases,
        label=label,
        answers=said,
        seen=raw.get("seen"),
    )


def _is_texts(value: object) -> bool:
    """Tell whether this is a list of texts."""
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def save_entities(entities: Iterable[Entity], path: Path) -> None:
    """Write JSON lines; empty fields are left out."""
    lines = []
    for entity in entities:
        values = {k: v for k, v in asdict(entity).items() if v not in (None, {}, []) or k == "facts"}
        lines.append(json.dumps(values, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def find_entity(entities: Sequence[Entity], name: str, *, option: str = "--forget") -> Entity:
    """Return the entity called `name`; `type:name` tells namesakes apart.

    Raises:
        EntityError: No such entity (nearest names given), or several of different types.
    """
    hits = [e for e in entities if name in (e.name, e.key)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise EntityError(
            f"'{name}' is not unique", got=f"{name} ({option})", expected=" or ".join(h.key for h in hits)
        )
    raise EntityError(
        f"no entity '{name}' in the set",
        got=f"{name} ({option})",
        expected=nearest_first(name, {e.name for e in entities}, most=4),
    )
