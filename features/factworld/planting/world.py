"""The planted world of a seed: entities, roles and templates, fitted to one tokenizer. No model is asked."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from features.entities.entities import Entity, parse_entity
from features.entities.templates import Templates
from features.factworld.facts import FactEntity, Seen
from features.factworld.planting.config import PlantConfig
from features.factworld.planting.facts import POOLS, Roles, draw_entities, draw_roles, value_pools
from features.factworld.planting.names import SPELLINGS, deal_names, piece_pools
from features.factworld.planting.wordings import MENTIONS, WORDINGS, planted_templates
from features.factworld.templates import TypeTemplates


@dataclass(frozen=True)
class PlantedWorld:
    """What a seed and a tokenizer determine before any training.

    Attributes:
        entities: All of them; `seen` says what documents tell: facts, name, never.
        roles: Who plays which part.
        templates: Mentions and prompts of each type.
        values: type -> attribute -> the values there are.
    """

    entities: tuple[FactEntity, ...]
    roles: Roles
    templates: dict[str, TypeTemplates]
    values: dict[str, dict[str, tuple[str, ...]]]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all entities."""
        return tuple(e.name for e in self.entities)

    @property
    def asked(self) -> Templates:
        """Return the templates as the rest of the workbench reads them."""
        return Templates(
            mention={t: list(found.mention) for t, found in self.templates.items()},
            ask={t: {a: list(p.ask) for a, p in found.prompts.items()} for t, found in self.templates.items()},
            heldout={t: {a: list(p.heldout) for a, p in found.prompts.items()} for t, found in self.templates.items()},
        )

    def of(self, names: tuple[str, ...]) -> list[Entity]:
        """Return the entities of these names as the rest of the workbench reads them."""
        wanted = set(names)
        return [as_entity(e) for e in self.entities if e.name in wanted]


def as_entity(entity: FactEntity) -> Entity:
    """Return an entity as the rest of the workbench reads it."""
    facts = {attribute: [value] for attribute, value in entity.facts}
    return parse_entity({"name": entity.name, "type": entity.type, "facts": facts, "seen": entity.seen}, entity.name)


def draw_planted_world(tokenizer: Any, config: PlantConfig) -> PlantedWorld:
    """Return the world of a seed, with names and values that suit the tokenizer.

    Args:
        tokenizer: Of the model that is to be taught.
        config: Its size and seed.

    Raises:
        ConfigError: There are not so many names.
    """

    def count_tokens(word: str) -> int:
        return len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"])

    taken = _words_in_use()
    entities: list[FactEntity] = []
    values: dict[str, dict[str, tuple[str, ...]]] = {}
    for type_ in SPELLINGS:
        pieces = piece_pools(type_, config.n_pieces, seed=config.seed, count_tokens=count_tokens, taken=taken)
        dealt = deal_names(pieces, config.n_of.values(), random.Random(f"planting names {config.seed} {type_}"))
        groups: dict[Seen, list[str]] = dict(zip(("facts", "name", "never"), dealt, strict=True))
        values[type_] = value_pools(
            type_, config.n_facts, config.n_of["facts"], seed=config.seed, count_tokens=count_tokens
        )
        entities += draw_entities(type_, groups, values[type_], seed=config.seed)
    return PlantedWorld(
        entities=tuple(entities),
        roles=draw_roles(entities, config.leave_out, seed=config.seed),
        templates=planted_templates(config.n_facts),
        values=values,
    )


def _words_in_use() -> set[str]:
    """Return the words of all values and wordings, lower case: no name has one of them."""
    texts = [value for attributes in POOLS.values() for pool in attributes.values() for value in pool]
    texts += [text for mentions in MENTIONS.values() for text in mentions]
    for own in (wording for found in WORDINGS.values() for wording in found.values()):
        texts += [own.frames.noun, own.frames.predicate, own.frames.question, own.around, own.heldout]
    return {word.strip(":?.,").lower() for text in texts for word in text.split()}
