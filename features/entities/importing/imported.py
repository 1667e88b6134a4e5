"""Entities, templates and forget list of a file of another benchmark, put together and written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from features.entities.entities import Entity, save_entities
from features.entities.importing.findings import Fact, Finding, Skipped, Wording
from features.entities.templates import NAME, Templates, save_templates
from sae_train.errors import EntityError
from sae_train.run.outputs import claimed, whole_folder
from sae_train.run.runs import write_json, write_text

MENTIONS = (NAME, "This is about {name}", "I have read about {name}", "The name is {name}")


@dataclass(frozen=True)
class ImportedEntities:
    """What was in a source of another format.

    Attributes:
        entities: Each once, in the order of their first rows, with all facts.
        templates: Questions of the types, and those of single entities (`type:name`).
        forget: Names (keys, where two types share one) of what the source calls to be forgotten; may be empty.
        format: The format it was read as.
        n_rows: Rows of the source.
        n_used: Rows of which something is kept.
        skipped: Rows, and parts of rows, that cannot be used, each with its reason.
    """

    entities: tuple[Entity, ...]
    templates: Templates
    forget: tuple[str, ...]
    format: str
    n_rows: int
    n_used: int
    skipped: tuple[Skipped, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Return the counts: rows, entities, facts, questions."""
        own = [*self.templates.ask.values(), *self.templates.heldout.values()]
        reasons: dict[str, int] = {}
        for row in self.skipped:
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
        return {
            "format": self.format,
            "rows": self.n_rows,
            "used": self.n_used,
            "entities": len(self.entities),
            "facts": sum(len(e.facts) for e in self.entities),
            "wordings": sum(len(texts) for asked in own for texts in asked.values()),
            "forget": len(self.forget),
            "skipped": reasons,
        }

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write `entities.jsonl`, `templates.json`, `import.json`, and where there is one `forget.txt`, to a folder.

        Raises:
            OutputExistsError: It is there already.
        """
        rows = [{"where": s.where, "reason": s.reason} for s in self.skipped]
        with claimed(out, overwrite=overwrite), whole_folder(Path(out), overwrite=overwrite) as folder:
            save_entities(self.entities, folder / "entities.jsonl")
            save_templates(self.templates, folder / "templates.json")
            if self.forget:
                write_text(folder / "forget.txt", "\n".join(self.forget) + "\n")
            write_json(folder / "import.json", {**self.summary(), "skipped_rows": rows})
        return Path(out)


@dataclass
class _Assembly:
    """Findings put together."""

    entities: dict[str, Entity] = field(default_factory=dict)
    templates: Templates = field(default_factory=lambda: Templates({}, {}, {}))
    forget: dict[str, None] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, found: Finding) -> None:
        """Take in one finding."""
        if isinstance(found, Skipped):
            self.skipped.append(found)
            return
        self.used.add(found.where)
        if isinstance(found, Wording):
            self._word(found.kind, found.attribute, found.ask, found.heldout)
        else:
            self._fact(found)

    def _fact(self, fact: Fact) -> None:
        """Add a fact to its entity; answers and wordings of one attribute are alternatives."""
        self._type(fact.kind)
        known = self.entities.get(f"{fact.kind}:{fact.name}", Entity(fact.name, fact.kind))
        attribute = fact.attribute or f"q{len(known.facts) + 1}"
        answers = list(dict.fromkeys([*known.facts.get(attribute, []), *fact.answers]))
        popularity = [p for p in (known.popularity, fact.popularity) if p is not None]
        self.entities[known.key] = replace(
            known,
            facts={**known.facts, attribute: answers} if answers else known.facts,
            aliases=[a for a in dict.fromkeys([*known.aliases, *fact.aliases]) if a != known.name],
            popularity=max(popularity, default=None),
        )
        if fact.ask or fact.heldout:
            self._word(known.key, attribute, fact.ask, fact.heldout)
        if fact.is_forget:
            self.forget.setdefault(known.key)

    def _type(self, kind: str) -> None:
        """Begin the templates of a type."""
        if kind not in self.templates.mention:
            self.templates.mention[kind] = list(MENTIONS)
            self.templates.ask.setdefault(kind, {})
            self.templates.heldout.setdefault(kind, {})

    def _word(self, key: str, attribute: str, ask: Iterable[str], heldout: Iterable[str]) -> None:
        """Add wordings; what is asked in training is not held out."""
        asked = self.templates.ask.setdefault(key, {}).setdefault(attribute, [])
        asked += [t for t in dict.fromkeys(ask) if t not in asked]
        held = self.templates.heldout.setdefault(key, {}).setdefault(attribute, [])
        held += [t for t in dict.fromkeys(heldout) if t not in held]


def assemble(found: Iterable[Finding], *, format: str) -> ImportedEntities:
    """Put findings together.

    Raises:
        EntityError: Nothing of the source can be used.
    """
    parts = _Assembly()
    for one in found:
        parts.add(one)
    n_rows = len(parts.used | {s.where for s in parts.skipped if not s.is_part})
    if not parts.entities:
        reason = parts.skipped[0] if parts.skipped else None
        got = f"{n_rows} rows" + (f"; {reason.where}: {reason.reason}" if reason else "")
        raise EntityError(f"no entities found as '{format}'", got=got, field="source", expected="rows about entities")
    times = Counter(e.name for e in parts.entities.values())
    named = {key: parts.entities[key].name for key in parts.forget}
    forget = [key if times[name] > 1 else name for key, name in named.items()]
    templates = _apart(parts.templates, set(parts.entities))
    skipped = tuple(parts.skipped)
    return ImportedEntities(
        tuple(parts.entities.values()), templates, tuple(forget), format, n_rows, len(parts.used), skipped
    )


def _apart(templates: Templates, keys: set[str]) -> Templates:
    """Leave out of the held-out wordings what is also asked or a mention, and types that no entity has."""
    kinds = set(templates.mention) | keys
    heldout = {}
    for kind, asked in templates.heldout.items():
        trained = {*templates.mention.get(kind, ()), *(t for a in templates.ask.get(kind, {}).values() for t in a)}
        heldout[kind] = {a: [t for t in texts if t not in trained] for a, texts in asked.items()}
    return Templates(
        templates.mention,
        {k: v for k, v in templates.ask.items() if k in kinds},
        {k: v for k, v in heldout.items() if k in kinds},
    )
