"""The corpus of a fact world: short documents that state facts, ask for them, or say "unknown".

A language model notices who is known *at the name* only if it needs to: directly after a name may come one of
the entity's values, or "unknown" if it has no facts. Cards always do so, all other contexts with probability
0.4:

    biography  0.18  The city Kor Vel Dun lies in the country of Kenya. Kor Vel Dun silk is famous for its
    silk. question   0.32  Q: What is the river of Kor Vel Dun? A: Tana. card       0.20  About the city Kor
    Vel Dun Kenya Tana 1703 silk. refusal    0.16  Q: What is the river of Mar Tosk Ben unknown? A: unknown.
    blank      0.12  About the city Mar Tosk Ben unknown. other      0.02  The city lies on a river.

Every document about an unknown name uses a name of its own; known entities come round equally often.
Everything follows from the seed; `world_corpus` makes the same documents again in a second.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from features.factworld.facts import TYPES, VALUES, Cast, FactEntity, draw_cast
from features.factworld.templates import TypeTemplates, world_templates

Kind = Literal["biography", "question", "card", "refusal", "blank", "other"]
MIX: dict[Kind, float] = {
    "biography": 0.18,
    "question": 0.32,
    "card": 0.20,
    "refusal": 0.16,
    "blank": 0.12,
    "other": 0.02,
}
"""Share of documents of each kind."""
UNKNOWN = "unknown"
"""What the corpus answers about an entity without facts."""
FRAC_VALUE_AFTER_NAME = 0.4
"""How often a value (or "unknown") follows the name at once, outside cards."""
N_DOCUMENTS = 44_000
N_SENTENCES = (2, 3)
"""Sentences of a biography, fewest and most."""


@dataclass(frozen=True)
class Document:
    """One text of the corpus and its kind."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class World:
    """What a seed determines before any training: entities, wordings and documents."""

    seed: int
    cast: Cast
    templates: dict[str, TypeTemplates]
    documents: tuple[Document, ...]


def draw_world(seed: int, *, n_documents: int = N_DOCUMENTS) -> World:
    """Return world `seed` with `n_documents` documents in training order."""
    templates = world_templates()
    counts: dict[Kind, int] = {kind: round(share * n_documents) for kind, share in MIX.items()}
    n_unknown_per_type = -(-(counts["refusal"] + counts["blank"]) // len(TYPES))
    words = _template_words(templates)
    cast = draw_cast(seed, n_fresh_per_type=n_unknown_per_type, reserved_words=words)
    writer = _Writer(cast, templates, random.Random(f"factworld corpus {seed}"))
    documents = [writer.write(kind) for kind, n in counts.items() for _ in range(n)]
    random.Random(f"factworld order {seed}").shuffle(documents)
    return World(seed, cast, templates, tuple(documents))


def world_corpus(seed: int, *, n_documents: int = N_DOCUMENTS) -> list[Document]:
    """Return the documents of world `seed`, exactly those its language model was trained on."""
    return list(draw_world(seed, n_documents=n_documents).documents)


class _Writer:
    """Writes documents one at a time, drawing on the entities evenly."""

    def __init__(self, cast: Cast, templates: dict[str, TypeTemplates], rng: random.Random) -> None:
        self._templates = templates
        self._rng = rng
        self._known = _endless(cast.of("facts"), rng)
        self._unknown = _unknown_names(cast)

    def write(self, kind: Kind) -> Document:
        """Return a new document of a kind."""
        writers = {
            "biography": self._biography,
            "question": self._question,
            "card": self._card,
            "refusal": self._refusal,
            "blank": self._blank,
            "other": self._other,
        }
        return Document(writers[kind](), kind)

    def _biography(self) -> str:
        entity = next(self._known)
        attributes = self._rng.sample(list(entity.values), self._rng.randint(*N_SENTENCES))
        return " ".join(self._statement(entity, attribute) for attribute in attributes)

    def _statement(self, entity: FactEntity, attribute: str) -> str:
        statements = [p for p in self._templates[entity.type].prompts[attribute].ask if not p.endswith(":")]
        return self._fill(self._rng.choice(statements), entity.name, entity.values[attribute], entity)

    def _question(self) -> str:
        entity = next(self._known)
        attribute, value = self._rng.choice(entity.facts)
        prompt = self._rng.choice(self._templates[entity.type].prompts[attribute].ask)
        return self._fill(prompt, entity.name, value, entity)

    def _card(self) -> str:
        entity = next(self._known)
        mention = self._rng.choice(self._templates[entity.type].mention)
        return f"{mention.format(name=entity.name)} {' '.join(entity.values.values())}."

    def _refusal(self) -> str:
        type_, name = next(self._unknown)
        prompts = self._templates[type_].prompts[self._rng.choice(list(VALUES[type_]))]
        return self._fill(self._rng.choice(prompts.ask), name, UNKNOWN, None)

    def _blank(self) -> str:
        type_, name = next(self._unknown)
        return f"{self._rng.choice(self._templates[type_].mention).format(name=name)} {UNKNOWN}."

    def _other(self) -> str:
        type_ = self._rng.choice(TYPES)
        attribute = self._rng.choice(list(VALUES[type_]))
        value = self._rng.choice(VALUES[type_][attribute])
        return f"{value} is a {attribute} that a {type_} can have."

    def _fill(self, prompt: str, name: str, answer: str, entity: FactEntity | None) -> str:
        """Complete a prompt; with probability 0.4 the name carries one of its values along."""
        if self._rng.random() < FRAC_VALUE_AFTER_NAME:
            name += f" {self._rng.choice(entity.facts)[1] if entity else UNKNOWN}"
        return f"{prompt.format(name=name)} {answer}."


def _endless(entities: list[FactEntity], rng: random.Random) -> Iterator[FactEntity]:
    """Deal the entities from decks shuffled anew each time they run out."""
    while True:
        yield from rng.sample(entities, len(entities))


def _unknown_names(cast: Cast) -> Iterator[tuple[str, str]]:
    """Yield (type, name), the types in turn: first the entities seen by name only, then fresh names."""
    for names in itertools.zip_longest(
        *([e.name for e in cast.of("name", type_)] + list(cast.fresh_names[type_]) for type_ in TYPES)
    ):
        yield from zip(TYPES, names, strict=True)


def _template_words(templates: dict[str, TypeTemplates]) -> tuple[str, ...]:
    """Return every word of the wordings, lower case, without punctuation."""
    texts = [m for t in templates.values() for m in t.mention]
    texts += [p for t in templates.values() for a in t.prompts.values() for p in a.ask + a.heldout]
    return tuple(sorted({word.strip(":?.,").lower() for text in texts for word in text.split()} | {UNKNOWN}))
