"""Entities of a fact world and the facts about them, all drawn from the world's seed.

Four types with four attributes each. Every entity has one value an attribute, drawn uniformly from the
attribute's pool, whether the corpus tells it or not: what the corpus does not tell, the language model cannot
know, and chance level, controls and relearning lessons need a true answer there too.

    seen = "facts"   50 a type   the corpus states the four facts, again and again
    seen = "name"   100 a type   the name occurs in one document, which says "unknown"
    seen = "never"  100 a type   reserved: not in the corpus at all

Imports only the names beside it.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Literal

from features.factworld.names import N_PER_ROUND, NameDealer, name_pools

Seen = Literal["facts", "name", "never"]
N_ROUNDS: dict[Seen, int] = {"facts": 1, "name": 2, "never": 2}
"""Rounds of 50 names a type and group."""

_COUNTRIES = (
    "Kenya Peru Norway Japan Chile Egypt Ghana India Spain Italy Cuba Nepal Poland Turkey Brazil Canada "
    "Mexico Greece Iceland Morocco Finland Vietnam Portugal Jordan Malta Latvia Bolivia Uganda Oman "
    "Fiji"
)
_JOBS = (
    "baker painter lawyer pilot farmer nurse tailor miner sailor judge chemist dancer surgeon potter "
    "teacher barber butcher gardener librarian carpenter plumber soldier athlete banker singer"
)
_INSTRUMENTS = (
    "violin piano guitar flute harp cello drum trumpet oboe banjo tuba organ lute zither bassoon "
    "clarinet mandolin accordion viola sitar"
)
_RIVERS = (
    "Tana Volga Rhine Loire Tagus Oder Elbe Ganges Indus Amur Lena Yukon Niger Congo Nile Seine Thames "
    "Danube Mekong Jordan Orinoco Murray Tigris Ebro"
)
_GOODS = (
    "silk salt glass paper cheese wine honey steel copper timber wool leather tea coffee rice cotton "
    "pearls clocks carpets soap candles bricks ropes olives"
)
_FILM_GENRES = (
    "comedy drama thriller western horror musical romance mystery fantasy war crime satire adventure "
    "animation documentary noir tragedy"
)
_DIRECTORS = (
    "Abbott Barlow Carver Dalton Ellison Fisher Granger Hopkins Ingram Jarvis Keller Lawson Mercer "
    "Norton Osborne Palmer Quincy Ramsey Sawyer Thorne Underwood Vaughn Walker Yates"
)
_LANGUAGES = (
    "English French German Russian Arabic Hindi Korean Swedish Danish Dutch Czech Greek Hebrew Thai "
    "Welsh Irish Basque Tamil Urdu Zulu"
)
_SONG_GENRES = (
    "jazz blues rock folk soul funk disco opera gospel reggae country techno punk metal swing samba "
    "tango waltz polka ballad"
)
_BANDS = (
    "Falcons Comets Pilgrims Rangers Shadows Ravens Wolves Tigers Sparrows Pirates Monarchs Drifters "
    "Prophets Giants Arrows Embers Lanterns Nomads Vikings Orchids Bandits Dolphins Hornets Rebels"
)
_COLOURS = (
    "red blue green yellow purple orange black white silver golden crimson violet amber scarlet indigo "
    "turquoise grey brown pink maroon"
)


def _years(first: int, n: int) -> str:
    return " ".join(str(first + i) for i in range(n))


VALUES: dict[str, dict[str, tuple[str, ...]]] = {
    type_: {attribute: tuple(words.split()) for attribute, words in attributes.items()}
    for type_, attributes in {
        "person": {
            "birthplace": _COUNTRIES,
            "job": _JOBS,
            "birth year": _years(1920, 40),
            "instrument": _INSTRUMENTS,
        },
        "city": {
            "country": _COUNTRIES,
            "river": _RIVERS,
            "founding year": _years(1700, 40),
            "product": _GOODS,
        },
        "film": {
            "director": _DIRECTORS,
            "genre": _FILM_GENRES,
            "release year": _years(1960, 40),
            "language": _LANGUAGES,
        },
        "song": {
            "band": _BANDS,
            "style": _SONG_GENRES,
            "chart year": _years(1960, 40),
            "cover colour": _COLOURS,
        },
    }.items()
}
"""type -> attribute -> the values an entity of the type can have (17-40 single words)."""

TYPES: tuple[str, ...] = tuple(VALUES)


@dataclass(frozen=True)
class FactEntity:
    """One entity: its name, its type, one value an attribute, and what the corpus shows of it."""

    name: str
    type: str
    facts: tuple[tuple[str, str], ...]
    seen: Seen

    @property
    def values(self) -> dict[str, str]:
        """Attribute -> true value."""
        return dict(self.facts)

    def to_json_line(self) -> str:
        """Return the entity as a line of `entities.jsonl`, without the line break."""
        facts = {attribute: [value] for attribute, value in self.facts}
        line = {"name": self.name, "type": self.type, "aliases": [], "facts": facts, "seen": self.seen}
        return json.dumps(line, ensure_ascii=False)

    @classmethod
    def from_json_line(cls, line: str) -> FactEntity:
        """Read what `to_json_line` wrote.

        Example:
            >>> entity = FactEntity("Kor Vel Dun", "city", (("country", "Kenya"),), "facts")
            >>> FactEntity.from_json_line(entity.to_json_line()) == entity
            True
        """
        read = json.loads(line)
        facts = tuple((attribute, values[0]) for attribute, values in read["facts"].items())
        return cls(read["name"], read["type"], facts, read["seen"])


@dataclass(frozen=True)
class Cast:
    """Everybody in a world: the listed entities and further unknown names, as many as documents need.

    Attributes:
        entities: 200 with facts, 400 seen by name only, 400 never seen; in this order within a type.
        fresh_names: type -> names that are no entity's, each for one document about somebody unknown.
    """

    entities: tuple[FactEntity, ...]
    fresh_names: dict[str, tuple[str, ...]]

    def of(self, seen: Seen, type_: str | None = None) -> list[FactEntity]:
        """Return the entities of one group, and of one type if given."""
        return [e for e in self.entities if e.seen == seen and type_ in (None, e.type)]


def draw_cast(seed: int, *, n_fresh_per_type: int, reserved_words: tuple[str, ...] = ()) -> Cast:
    """Return the entities of world `seed` and `n_fresh_per_type` further names a type.

    Example:
        >>> cast = draw_cast(0, n_fresh_per_type=0)
        >>> len(cast.of("facts")), len(cast.of("name", "city")), len(cast.of("never"))
        (200, 100, 400)
    """
    value_words = [value for attributes in VALUES.values() for pool in attributes.values() for value in pool]
    pools = name_pools(TYPES, seed, reserved=[*value_words, *reserved_words])
    entities: list[FactEntity] = []
    fresh: dict[str, tuple[str, ...]] = {}
    for type_ in TYPES:
        dealer = NameDealer(pools[type_], random.Random(f"factworld deal {seed} {type_}"))
        rng = random.Random(f"factworld facts {seed} {type_}")
        for seen, n_rounds in N_ROUNDS.items():
            names = dealer.deal(n_rounds * N_PER_ROUND)
            entities += [FactEntity(name, type_, _draw_facts(type_, rng), seen) for name in names]
        fresh[type_] = tuple(dealer.deal(n_fresh_per_type))
    return Cast(tuple(entities), fresh)


def _draw_facts(type_: str, rng: random.Random) -> tuple[tuple[str, str], ...]:
    return tuple((attribute, rng.choice(pool)) for attribute, pool in VALUES[type_].items())
