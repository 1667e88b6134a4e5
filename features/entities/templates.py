"""Prompt templates: of a type, and of single entities that have questions of their own; their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.entities.named_inputs import world_part
from sae_train.errors import FileFormatError
from sae_train.run.runs import require_file, write_text
from sae_train.text_files import read_json

NAME = "{name}"
LANGUAGES = "languages"  # of a type: {"de": {"country": ["In welchem Land liegt {name}? In"]}}
FORM = '{"city": {"mention": ["The city of {name}"], "country": {"ask": ["…{name}…"], "heldout": ["…"]}}}'


@dataclass(frozen=True)
class Templates:
    """Prompts per entity type, and per entity where one is asked in words of its own.

    `ask` and `heldout` may hold, beside types, keys of entities (`type:name`): their questions take the place of those
    of the type, attribute by attribute.

    Attributes:
        mention: Texts that only name the entity, per type.
        ask: Questions per type and attribute: for labelling and training.
        heldout: Questions in other words: for evaluation only.
        languages: Questions in other languages, per language, type and attribute: for the audit only.
    """

    mention: dict[str, list[str]]
    ask: dict[str, dict[str, list[str]]]
    heldout: dict[str, dict[str, list[str]]]
    languages: dict[str, dict[str, dict[str, list[str]]]] = field(default_factory=dict)

    def attributes(self, kind: str) -> list[str]:
        """Return the attributes that can be asked of a type."""
        return list(self.ask.get(kind, {}))

    def questions(self, kind: str, key: str | None = None, *, heldout: bool) -> dict[str, list[str]]:
        """Return the questions per attribute, for a type or for one entity of it.

        Args:
            kind: The type.
            key: Key of the entity; None for what all of the type share.
            heldout: The held-out wordings in the place of the others.

        Example:
            >>> shared, own = {"job": ["{name} works as"]}, {"q1": ["Who is {name}?"]}
            >>> t = Templates({}, {"person": shared, "person:Osk": own}, {})
            >>> t.questions("person", "person:Osk", heldout=False)
            {'job': ['{name} works as'], 'q1': ['Who is {name}?']}
            >>> t.questions("person", "person:Mira", heldout=False)
            {'job': ['{name} works as']}
        """
        source = self.heldout if heldout else self.ask
        shared = source.get(kind, {})
        return {**shared, **source.get(key, {})} if key is not None and key in source else shared

    def is_shared(self, kind: str, attribute: str | None) -> bool:
        """Tell whether the whole type is asked for an attribute, so that its name says what is asked."""
        return attribute in self.ask.get(kind, {}) or attribute in self.heldout.get(kind, {})

    def has_mentions(self, kind: str) -> bool:
        """Tell whether there are texts that only name an entity of the type."""
        return bool(self.mention.get(kind))


def load_templates(source: str | Path) -> Templates:
    """Read and check a template file.

    Args:
        source: JSON of the documented form, or the name of a world.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: Not JSON of the documented form, an empty list of mentions or questions, a template without
            exactly one `{name}` (one or more in the questions of a single entity), or a held-out wording that is a
            training one too.
    """
    path = require_file(world_part(source, "templates") or Path(source), "templates", field="templates")
    raw = read_json(path)
    if not isinstance(raw, dict) or not raw or not all(isinstance(v, dict) for v in raw.values()):
        raise FileFormatError(f"'{path}' holds no templates", got=type(raw).__name__, expected=FORM)
    found = Templates({}, {}, {})
    for kind, entry in raw.items():
        own = is_own(kind, raw)
        if "mention" in entry or not own:
            found.mention[kind] = _texts(entry.get("mention", [NAME]), f"{kind}.mention", path, least=1)
        found.ask[kind], found.heldout[kind] = {}, {}
        for attribute, asked in entry.items():
            if attribute == "mention":
                continue
            if attribute == LANGUAGES:
                _add_languages(found, kind, asked, path)
                continue
            if not isinstance(asked, dict) or "ask" not in asked:
                raise FileFormatError(f"'{path}', {kind}.{attribute}", got=repr(asked)[:60], expected=FORM)
            where = f"{kind}.{attribute}"
            least = 0 if own or asked.get("heldout") else 1
            found.ask[kind][attribute] = _texts(asked["ask"], f"{where}.ask", path, several=own, least=least)
            found.heldout[kind][attribute] = _texts(asked.get("heldout", []), f"{where}.heldout", path, several=own)
    _check_apart(found, path)
    return found


def _add_languages(found: Templates, kind: str, given: object, path: Path) -> None:
    """Check and add the questions of one type in other languages."""
    if not isinstance(given, dict) or not all(isinstance(asked, dict) for asked in given.values()):
        raise FileFormatError(
            f"'{path}', {kind}.{LANGUAGES}", got=repr(given)[:60], expected='{"de": {"country": ["…{name}…"]}}'
        )
    for language, asked in given.items():
        own = {a: _texts(texts, f"{kind}.{LANGUAGES}.{language}.{a}", path, least=1) for a, texts in asked.items()}
        found.languages.setdefault(language, {})[kind] = own


def is_own(kind: str, kinds: Mapping[str, Any]) -> bool:
    """Tell whether an entry of a template file is about one entity: `type:name`, its type being there too.

    Example:
        >>> is_own("person:Osk", {"person": {}}), is_own("person", {"person": {}}), is_own("a:b", {"c": {}})
        (True, False, False)
    """
    return any(kind[:at] in kinds for at, letter in enumerate(kind) if letter == ":")


def _check_apart(templates: Templates, path: Path) -> None:
    """Refuse a held-out wording that is a training one too."""
    for kind, asked in templates.ask.items():
        trained = {*templates.mention.get(kind, ()), *(t for texts in asked.values() for t in texts)}
        both = sorted(trained & {t for texts in templates.heldout[kind].values() for t in texts})
        if both:
            raise FileFormatError(
                f"'{path}', {kind}: a held-out wording is also a training one",
                got=", ".join(both)[:160],
                expected='"heldout" texts that stand neither in "ask" nor in "mention"',
            )


def _texts(value: object, where: str, path: Path, *, several: bool = False, least: int = 0) -> list[str]:
    """Check a list of templates; the questions of one entity may name it several times."""
    if isinstance(value, list) and len(value) < least:
        raise FileFormatError(
            f"'{path}', {where} is empty", got="[]", expected="at least one text with {name}, or the key left out"
        )
    good = isinstance(value, list) and all(
        isinstance(t, str) and (t.count(NAME) == 1 or (several and NAME in t)) for t in value
    )
    if not good:
        raise FileFormatError(f"'{path}', {where}", got=repr(value)[:80], expected="texts with one {name} each")
    assert isinstance(value, list)
    return value


def save_templates(templates: Templates, path: Path) -> None:
    """Write a template file."""
    entries: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys([*templates.mention, *templates.ask, *templates.heldout]):
        entries[kind] = {"mention": templates.mention[kind]} if kind in templates.mention else {}
        asked, heldout = templates.ask.get(kind, {}), templates.heldout.get(kind, {})
        for attribute in dict.fromkeys([*asked, *heldout]):
            entries[kind][attribute] = {"ask": asked.get(attribute, []), "heldout": heldout.get(attribute, [])}
        if given := {name: kinds[kind] for name, kinds in templates.languages.items() if kind in kinds}:
            entries[kind][LANGUAGES] = given
    write_text(path, json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
