"""Entity sets and labels: parse rows into frozen dataclasses; errors name the row.

Namesakes of different types are different entities; two rows of one name and type are the same one twice, and
`DUPLICATES` says what becomes of them.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from features.entities.entity_rows import read_rows
from features.entities.named_inputs import entity_source
from sae_train.errors import ConfigError, EntityError, FileFormatError, nearest_first
from sae_train.run.runs import require_file, write_text
from sae_train.text.words import same_text

LABELS = ("known", "unknown", "between")
AGREED = {"answer", "frac_greedy", "frac_sampled", "frac_made_up_greedy", "frac_made_up_sampled"}
EVEN_EMPTY = ("facts", "agreed", "given_facts")  # what is written although it is empty


@dataclass(frozen=True)
class Entity:
    """One entity.

    Attributes:
        name: As it is written into prompts.
        type: Which templates ask about it.
        facts: Accepted answers per attribute.
        aliases: Other names of it.
        label: `known`, `unknown` or `between`, once the model has been asked.
        answers: What the model answered greedily, per attribute, in the order of the templates.
        samples: What it answered when sampled, per attribute and template.
        popularity: How well known it is in the world, in any unit that orders entities: inhabitants, page views.
        name_tokens: Tokens of its name in a running text, for the model that was asked.
        seen: How the model met it, where that is known by construction (`facts`, `name`, `never`; `made-up`).
        agreed: What is said most of each attribute and how often (`features/labels/agreement.py`); None if not found.
        given_facts: The facts that it came with, where what the model says has taken their place; else None.
    """

    name: str
    type: str
    facts: dict[str, list[str]] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    label: str | None = None
    answers: dict[str, list[str]] = field(default_factory=dict)
    samples: dict[str, list[list[str]]] = field(default_factory=dict)
    popularity: float | None = None
    name_tokens: int | None = None
    seen: str | None = None
    agreed: dict[str, dict[str, Any]] | None = None
    given_facts: dict[str, list[str]] | None = None

    @property
    def key(self) -> str:
        """Return what tells two entities of a set apart."""
        return f"{self.type}:{self.name}"


def load_entities(source: str | Path, *, need_labels: bool = False, duplicates: str = "error") -> list[Entity]:
    """Read an entity or label file, or a hub dataset.

    Args:
        source: A path to JSON lines or CSV, gzip or plain; the name of a world, or the id of a hub dataset.
        need_labels: Refuse rows without a label.
        duplicates: What becomes of a name that its type has twice: an entry of `DUPLICATES`.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: A row is not an entity; its number is given.
        EntityError: No entity, or the same one twice.
    """
    where = entity_source(source)
    if isinstance(where, Path):
        require_file(where, "labels" if need_labels else "entities", field="labels" if need_labels else "entities")
    rows = ((row.where, parse_entity(row.raw, row.where, need_label=need_labels)) for row in read_rows(where))
    found = distinct(rows, duplicates)
    if not found:
        raise EntityError(f"no entities in '{source}'", got="an empty file", expected='{"name": …, "type": …} per line')
    return found


def distinct(rows: Iterable[tuple[str, Entity]], duplicates: str) -> list[Entity]:
    """Return entities, each once, in the order of their first rows.

    Args:
        rows: Entities, each with its place for messages.
        duplicates: What becomes of a name that its type has twice: an entry of `DUPLICATES`.

    Raises:
        ConfigError: There is no such entry.
        EntityError: The same one twice, where that is an error or the two cannot be one.
    """
    if duplicates not in DUPLICATES:
        expected = nearest_first(duplicates, DUPLICATES)
        raise ConfigError(f"no way '{duplicates}' to settle duplicates", got=f"{duplicates}", expected=expected)
    found: dict[str, Entity] = {}
    first_at: dict[str, str] = {}
    for where, entity in rows:
        known = found.get(entity.key)
        found[entity.key] = (
            entity if known is None else DUPLICATES[duplicates](known, entity, f"{first_at[entity.key]} and {where}")
        )
        first_at.setdefault(entity.key, where)
    return list(found.values())


def _refuse(first: Entity, second: Entity, where: str) -> Entity:
    """Two rows of one name and type are a mistake."""
    raise EntityError(
        f"an entity is named twice: {where}",
        got=first.key,
        expected="each name once in its type",
        try_="wb label-entities --duplicates first or --duplicates merge",
    )


def _keep_first(first: Entity, second: Entity, where: str) -> Entity:
    """The later row is dropped."""
    return first


def _merge(first: Entity, second: Entity, where: str) -> Entity:
    """The answers of both are right and both sets of aliases count; of two popularities the greater one."""
    if first.label != second.label:
        raise EntityError(
            f"an entity has two labels: {where}", got=f"{first.label} and {second.label}", expected="one label"
        )
    attributes = dict.fromkeys([*first.facts, *second.facts])
    popularity = [p for p in (first.popularity, second.popularity) if p is not None]
    return replace(
        first,
        facts={a: list(dict.fromkeys([*first.facts.get(a, []), *second.facts.get(a, [])])) for a in attributes},
        aliases=list(dict.fromkeys([*first.aliases, *second.aliases])),
        popularity=max(popularity, default=None),
    )


DUPLICATES: dict[str, Callable[[Entity, Entity, str], Entity]] = {
    "error": _refuse,
    "first": _keep_first,
    "merge": _merge,
}


def parse_entity(raw: Any, where: str, *, need_label: bool = False) -> Entity:
    """Check one row, field by field.

    Args:
        raw: The fields.
        where: The row's place, for messages.
        need_label: Refuse it without a label.

    Raises:
        FileFormatError: It is not an entity.
    """
    if not isinstance(raw, dict):
        raise FileFormatError(f"{where} is not an entity", got=type(raw).__name__, expected="a JSON object")
    for key in ("name", "type"):
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            raise FileFormatError(f"{where} has no {key}", got=repr(raw.get(key)), expected="a text that is not empty")
        if any(unicodedata.category(c) == "Cc" for c in raw[key]):
            raise FileFormatError(f"{where} has no usable {key}", got=repr(raw[key])[:80], expected="one line of text")
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
        facts=_facts(raw.get("facts", {}), where),
        aliases=_checked(raw.get("aliases", []), _is_texts, f"{where} has no usable aliases", "a list of texts"),
        label=label,
        answers=_checked(
            raw.get("answers", {}), _are_answers, f"{where} has no usable answers", "attribute -> a list of texts"
        ),
        samples=_checked(
            raw.get("samples", {}), _are_samples, f"{where} has no usable samples", "attribute -> lists of texts"
        ),
        popularity=_number(raw.get("popularity"), f"{where}, popularity"),
        name_tokens=_checked(
            raw.get("name_tokens"), _is_count, f"{where} has no usable name_tokens", "a whole number above 0"
        ),
        seen=_checked(raw.get("seen"), _is_text_or_none, f"{where} has no usable seen", "a text, or nothing"),
        agreed=_checked(raw.get("agreed"), _are_agreed, f"{where} has no usable agreed", "attribute -> answer, shares"),
        given_facts=None if raw.get("given_facts") is None else _facts(raw["given_facts"], where),
    )


def _facts(raw: Any, where: str) -> dict[str, list[str]]:
    """Check the facts; one answer as a text is a list of one."""
    if not isinstance(raw, dict):
        raise FileFormatError(f"{where} has no usable facts", got=type(raw).__name__, expected="attribute -> answers")
    facts = {a: [v] if isinstance(v, str) else v for a, v in raw.items()}
    for attribute, values in facts.items():
        if not values or not _is_texts(values) or not all(v.strip() for v in values):
            raise FileFormatError(f"{where}, fact '{attribute}'", got=repr(values)[:80], expected="a list of texts")
    return facts


def _number(value: Any, what: str) -> float | None:
    """Check a number that may be missing."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FileFormatError(f"{what} is no number", got=repr(value)[:80], expected="a finite number, or nothing")
    return float(value)


def _checked(value: Any, is_good: Callable[[Any], bool], what: str, expected: str) -> Any:
    """Return a value that passes."""
    if not is_good(value):
        raise FileFormatError(what, got=repr(value)[:80], expected=expected)
    return value


def _is_text_or_none(value: Any) -> bool:
    """Tell whether this is a text, or missing."""
    return value is None or isinstance(value, str)


def _is_texts(value: Any) -> bool:
    """Tell whether this is a list of texts."""
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _are_answers(value: Any) -> bool:
    """Tell whether this holds a list of texts per attribute."""
    return isinstance(value, dict) and all(map(_is_texts, value.values()))


def _are_samples(value: Any) -> bool:
    """Tell whether this holds a list of texts per attribute and template."""
    return isinstance(value, dict) and all(isinstance(v, list) and all(map(_is_texts, v)) for v in value.values())


def _are_agreed(value: Any) -> bool:
    """Tell whether this holds an answer and shares per attribute, or is missing."""
    return value is None or (
        isinstance(value, dict)
        and all(
            isinstance(v, dict)
            and v.keys() == AGREED
            and isinstance(v["answer"], str)
            and all(isinstance(v[name], int | float) for name in AGREED - {"answer"})
            for v in value.values()
        )
    )


def _is_count(value: Any) -> bool:
    """Tell whether this is a whole number above zero, or missing."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def entity_line(entity: Entity) -> str:
    """Return an entity as one line of JSON; empty fields are left out."""
    values = {k: v for k, v in asdict(entity).items() if v not in (None, {}, []) or (v == {} and k in EVEN_EMPTY)}
    return json.dumps(values, ensure_ascii=False)


def save_entities(entities: Iterable[Entity], path: Path) -> None:
    """Write JSON lines."""
    write_text(path, "\n".join(map(entity_line, entities)) + "\n")


def find_entity(entities: Sequence[Entity], name: str, *, field: str = "forget") -> Entity:
    """Return the entity called `name`; `type:name` tells namesakes apart; how accents are encoded does not.

    Raises:
        EntityError: No such entity (nearest names given), or several of different types.
    """
    hits = [e for e in entities if name in (e.name, e.key)]
    hits = hits or [e for e in entities if same_text(name, e.name) or same_text(name, e.key)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise EntityError(f"'{name}' is not unique", got=name, field=field, expected=" or ".join(h.key for h in hits))
    raise EntityError(
        f"no entity '{name}' in the set",
        got=name,
        field=field,
        expected=nearest_first(name, {e.name for e in entities}, most=4),
    )
