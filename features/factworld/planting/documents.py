"""Documents of a planted world, in the order of training, for the model and for its twin.

In every round each taught entity has a biography, which states all its facts in random order and wording, one
statement or question for each fact, and one mention; each entity that is only mentioned has two mentions.

The twin reads the same documents at the same places, but in the place of each that names a target it reads another one
of its kind, drawn from those left: as many steps, as many documents in each.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from features.factworld.facts import FactEntity
from features.factworld.planting.config import PlantConfig
from features.factworld.planting.wordings import PRONOUNS, WORDINGS
from features.factworld.planting.world import PlantedWorld

Kind = Literal["biography", "statement", "question", "mention"]
N_MENTIONS = {"facts": 1, "name": 2, "never": 0}  # in a round
FRAC_AROUND = 0.2  # of statements: the value in the middle, or before the name
FRAC_PRONOUN = 0.3  # of a biography's sentences behind the first
FRAC_QUESTION = 0.5  # of the documents that tell one fact


@dataclass(frozen=True)
class PlantedDocument:
    """One text.

    Attributes:
        text: What is read.
        kind: What sort of text it is.
        names: Whom it names.
        values: First character of each value in it, and the one behind its last.
    """

    text: str
    kind: Kind
    names: tuple[str, ...]
    values: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Sentence:
    """A sentence, and where the value in it lies."""

    text: str
    start: int
    end: int


def draw_documents(world: PlantedWorld, config: PlantConfig) -> list[PlantedDocument]:
    """Return the documents of all rounds, shuffled within each round."""
    writer = _Writer(world, random.Random(f"planting documents {config.seed}"))
    order = random.Random(f"planting order {config.seed}")
    found: list[PlantedDocument] = []
    for _ in range(config.rounds):
        round_ = writer.round()
        found += order.sample(round_, len(round_))
    return found


def twin_documents(
    documents: Sequence[PlantedDocument], targets: Collection[str], *, seed: int
) -> list[PlantedDocument]:
    """Return what the twin reads: at the place of each document that names a target, another one of the same kind."""
    rng, named = random.Random(f"planting twin {seed}"), set(targets)
    left: dict[str, list[PlantedDocument]] = defaultdict(list)
    for document in documents:
        if not named & {*document.names}:
            left[document.kind].append(document)
    return [rng.choice(left[d.kind]) if named & {*d.names} else d for d in documents]


class _Writer:
    """Writes the documents of a round after the other."""

    def __init__(self, world: PlantedWorld, rng: random.Random) -> None:
        self._world = world
        self._rng = rng

    def round(self) -> list[PlantedDocument]:
        """Return the documents of one round, entity by entity."""
        found: list[PlantedDocument] = []
        for entity in self._world.entities:
            if entity.seen == "facts":
                found.append(self._biography(entity))
                found += [self._fact(entity, attribute) for attribute, _ in entity.facts]
            found += [self._mention(entity) for _ in range(N_MENTIONS[entity.seen])]
        return found

    def _biography(self, entity: FactEntity) -> PlantedDocument:
        text, spans = "", list[tuple[int, int]]()
        for attribute in self._rng.sample(list(entity.values), len(entity.values)):
            told = self._statement(entity, attribute, may_say_this=bool(text))
            text += " " if text else ""
            spans.append((len(text) + told.start, len(text) + told.end))
            text += told.text
        return PlantedDocument(text, "biography", (entity.name,), tuple(spans))

    def _fact(self, entity: FactEntity, attribute: str) -> PlantedDocument:
        if self._rng.random() < FRAC_QUESTION:
            questions = [p for p in self._ask(entity, attribute) if p.endswith(":")]
            told, kind = _answered(self._rng.choice(questions), entity.name, entity.values[attribute]), "question"
        else:
            told, kind = self._statement(entity, attribute), "statement"
        return PlantedDocument(told.text, kind, (entity.name,), ((told.start, told.end),))

    def _mention(self, entity: FactEntity) -> PlantedDocument:
        text = self._rng.choice(self._world.templates[entity.type].mention)
        return PlantedDocument(text.format(name=entity.name), "mention", (entity.name,))

    def _statement(self, entity: FactEntity, attribute: str, *, may_say_this: bool = False) -> _Sentence:
        """State a fact; behind the first sentence of a biography the name may be left out."""
        value, draw = entity.values[attribute], self._rng.random()
        prompts = [p for p in self._ask(entity, attribute) if not p.endswith(":")]
        if may_say_this and draw < FRAC_PRONOUN:
            return _answered(prompts[0], PRONOUNS[entity.type], value)  # the plain one
        if draw > 1 - FRAC_AROUND:
            around = WORDINGS[entity.type][attribute].around.replace("@", entity.name)
            start = around.index("#")
            return _Sentence(around.replace("#", value), start, start + len(value))
        return _answered(self._rng.choice(prompts), entity.name, value)

    def _ask(self, entity: FactEntity, attribute: str) -> tuple[str, ...]:
        return self._world.templates[entity.type].prompts[attribute].ask


def _answered(prompt: str, name: str, value: str) -> _Sentence:
    """Complete a prompt."""
    asked = prompt.format(name=name)
    return _Sentence(f"{asked} {value}.", len(asked) + 1, len(asked) + 1 + len(value))
