"""Facts of a planted world: five attributes a type, values that are real words, and who is whose part.

Values are dealt out, not drawn: within a group of entities every value of an attribute is as frequent as every other,
or occurs once more, and each is shared by several. Attributes are dealt independently of each other and of the names.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

from features.factworld.facts import VALUES, FactEntity, Seen
from features.factworld.planting.names import CountTokens

N_VALUES = (8, 16)
"""Values of an attribute, fewest and most."""
MOST_TOKENS = 3
SHARED_BY = 3  # taught entities of a type to one value, or more

_CITIES = (
    "London Paris Berlin Rome Madrid Tokyo Boston Chicago Dublin Vienna Moscow Toronto Sydney Delhi Dallas Houston "
    "Seattle Denver Miami Oslo"
)
_SPORTS = (
    "tennis football golf hockey boxing rugby baseball basketball cricket swimming cycling wrestling skiing rowing"
)
_ANIMALS = "lion tiger bear wolf horse eagle dolphin rabbit fox owl elephant whale turtle dog cat snake"
_MONTHS = "January February March April May June July August September October November December"

POOLS: dict[str, dict[str, tuple[str, ...]]] = {
    "person": {
        "home city": tuple(_CITIES.split()),
        "profession": VALUES["person"]["job"],
        "instrument": VALUES["person"]["instrument"],
        "language": VALUES["film"]["language"],
        "sport": tuple(_SPORTS.split()),
    },
    "company": {
        "country": VALUES["city"]["country"],
        "product": VALUES["city"]["product"],
        "logo colour": VALUES["song"]["cover colour"],
        "mascot": tuple(_ANIMALS.split()),
        "month": tuple(_MONTHS.split()),
    },
}
"""type -> attribute -> the values it can have, single words."""


@dataclass(frozen=True)
class Roles:
    """Who plays which part, by name.

    Attributes:
        targets: Taught to the model and not to the twin.
        retained: Taught to both: everybody else with facts.
        mentioned: Named in documents that tell nothing of them.
        never_met: Named nowhere.
        validation_targets: As many of the retained as there are targets, to choose settings on.
    """

    targets: tuple[str, ...]
    retained: tuple[str, ...]
    mentioned: tuple[str, ...]
    never_met: tuple[str, ...]
    validation_targets: tuple[str, ...]

    def as_json(self) -> dict[str, list[str]]:
        """Return what `roles.json` holds."""
        return {part: list(names) for part, names in asdict(self).items()}


def value_pools(
    type_: str, n_facts: int, n_taught: int, *, seed: int, count_tokens: CountTokens
) -> dict[str, tuple[str, ...]]:
    """Return attribute -> values for the first `n_facts` attributes of a type.

    The shortest values are preferred, none is longer than three tokens where eight are left without; of those that
    one or two tokens make, the seed chooses.
    """
    n = min(N_VALUES[1], max(N_VALUES[0], n_taught // SHARED_BY))
    rng = random.Random(f"planting values {seed} {type_}")
    found: dict[str, tuple[str, ...]] = {}
    for attribute, pool in list(POOLS[type_].items())[:n_facts]:
        lengths = {value: count_tokens(value) for value in pool}
        mixed = rng.sample(pool, len(pool))
        ranked = sorted(mixed, key=lambda value: max(2, lengths[value]))
        short = [value for value in ranked if lengths[value] <= MOST_TOKENS]
        found[attribute] = tuple((short if len(short) >= N_VALUES[0] else ranked[: N_VALUES[0]])[:n])
    return found


def draw_entities(
    type_: str, names: dict[Seen, list[str]], pools: dict[str, tuple[str, ...]], *, seed: int
) -> list[FactEntity]:
    """Return the entities of a type; those that nobody tells about have true values as well, which chance can hit."""
    rng = random.Random(f"planting facts {seed} {type_}")
    entities: list[FactEntity] = []
    for seen, group in names.items():
        dealt = {attribute: _dealt(values, len(group), rng) for attribute, values in pools.items()}
        for i, name in enumerate(group):
            entities.append(FactEntity(name, type_, tuple((a, values[i]) for a, values in dealt.items()), seen))
    return entities


def _dealt(values: tuple[str, ...], n: int, rng: random.Random) -> list[str]:
    """Return `n` values in random order, each as often as every other or once more."""
    decks = [value for _ in range(-(-n // len(values))) for value in rng.sample(values, len(values))]
    return rng.sample(decks[:n], n)


def draw_roles(entities: list[FactEntity], n_targets: int, *, seed: int) -> Roles:
    """Draw targets and validation targets, of every type in turn.

    No two of them share a word of their names, as far as there are enough words: each word of a target's name is then
    borne by somebody whom the twin is taught, and does not tell the targets from other unknown names.
    """
    rng = random.Random(f"planting roles {seed}")
    taught = [e for e in entities if e.seen == "facts"]
    words: set[str] = set()
    targets = _apart(taught, n_targets, rng, words)
    others = [e for e in taught if e not in targets]
    chosen = _apart(others, n_targets, rng, words)
    return Roles(
        targets=tuple(e.name for e in targets),
        retained=tuple(e.name for e in others),
        mentioned=tuple(e.name for e in entities if e.seen == "name"),
        never_met=tuple(e.name for e in entities if e.seen == "never"),
        validation_targets=tuple(e.name for e in chosen),
    )


def _apart(entities: list[FactEntity], n: int, rng: random.Random, words: set[str]) -> list[FactEntity]:
    """Choose entities of every type in turn, of new words where there are such; add their words to `words`."""
    types = list(dict.fromkeys(e.type for e in entities))
    left = {t: rng.sample(own, len(own)) for t in types if (own := [e for e in entities if e.type == t])}
    chosen: list[FactEntity] = []
    for i in range(n):
        free = left[types[i % len(types)]]
        found = min(free, key=lambda e: len(words & {*e.name.split()}))  # the first of the best
        free.remove(found)
        words |= {*found.name.split()}
        chosen.append(found)
    return chosen
