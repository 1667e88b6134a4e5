"""Made-up names, in the likeness of a set's own: what a model says of them it would say of anybody.

A name of several words takes each word from another entity at that place of the name; a name of one word takes the
first half of one and the second half of another. So made-up names look like the set's, and none of them is in it. One
may still be a real name outside the set; of `N_NAMES` of a type a few do no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from features.entities.entities import Entity
from features.entities.prompts import by_type
from features.entities.templates import Templates
from sae_train.errors import EntityError
from sae_train.rng import rng

N_NAMES = 40
TRIES = 50  # draws for each name
MIN_ALIKE = 3  # names of one type and number of words, below which hardly anything can be dealt anew
MADE_UP = "made-up"


def made_up(entities: Sequence[Entity], *, n: int = N_NAMES, seed: int = 0) -> list[Entity]:
    """Return made-up entities of every type of a set; `seen` says that they are.

    Args:
        entities: The set whose names are taken apart.
        n: Names of each type; fewer where the set's names allow no more.
        seed: Of the draws.

    Raises:
        EntityError: The names of a type allow none.

    Example:
        >>> made = made_up([Entity("Nairobi", "city"), Entity("Kampala", "city")], n=2)
        >>> sorted(e.name for e in made)
        ['Kampobi', 'Nairala']
    """
    taken = {name.casefold() for e in entities for name in (e.name, *e.aliases)}
    found: list[Entity] = []
    for kind, members in by_type(entities).items():
        generator = rng("labels.made_up", seed, *kind.encode())
        names: dict[str, None] = {}
        for _ in range(n * TRIES):
            name = _recombined([e.name.split() for e in members], generator)
            if name.casefold() not in taken:
                names.setdefault(name)
            if len(names) == n:
                break
        if not names:
            raise EntityError(
                f"no name can be made up in the likeness of the type '{kind}'",
                got=", ".join(e.name for e in members[:4]),
                expected="several names that differ",
            )
        found += [Entity(name, kind, seen=MADE_UP) for name in names]
    return found


def _recombined(names: Sequence[list[str]], generator: np.random.Generator) -> str:
    """Return a name of pieces of others, as long as one that is drawn."""
    n_words = len(names[int(generator.integers(len(names)))])
    pool = [name for name in names if len(name) == n_words]
    picked = [pool[i] for i in generator.integers(len(pool), size=max(2, n_words))]
    if n_words == 1:
        (first,), (second,) = picked
        return first[: (len(first) + 1) // 2] + second[(len(second) + 1) // 2 :]
    return " ".join(name[place] for place, name in enumerate(picked))


def recombined_groups(
    entities: Sequence[Entity], taken: Collection[str], *, n_groups: int, seed: int = 0
) -> list[list[Entity]]:
    """Return groups of never-met entities with exactly the pieces of a group's names, each as often and in its place.

    Each new group deals the first words of a type's names anew, then the second ones, and so on; names of one word are
    halves. Whatever a model has learned about the pieces it has learned about either group alike.

    Args:
        entities: The group; of a type and number of words with fewer than `MIN_ALIKE` names none is in the new groups.
        taken: Names that no new one may have.
        n_groups: How many; fewer where the names allow no more.
        seed: Of the draws.

    Example:
        >>> names = [Entity(n, "city") for n in ("New Haven", "Old Bridge", "Port Elm")]
        >>> (group,) = recombined_groups(names, [], n_groups=1)
        >>> sorted(e.name.split()[0] for e in group), "New Haven" in {e.name for e in group}
        (['New', 'Old', 'Port'], False)
    """
    used = {name.casefold() for name in taken} | {n.casefold() for e in entities for n in (e.name, *e.aliases)}
    classes: dict[tuple[str, int], list[Entity]] = {}
    for entity in entities:
        classes.setdefault((entity.type, len(entity.name.split())), []).append(entity)
    classes = {key: members for key, members in classes.items() if len(members) >= MIN_ALIKE}
    found: list[list[Entity]] = []
    for index in range(n_groups if classes else 0):
        generator = rng("made_up.groups", seed, index)
        dealt = {key: _dealt([e.name for e in members], used, generator) for key, members in classes.items()}
        if all(dealt.values()):
            pairs = [(name, e) for key, names in dealt.items() for name, e in zip(names, classes[key], strict=True)]
            found.append([Entity(name, e.type, {a: [] for a in e.facts}, seen=MADE_UP) for name, e in pairs])
    return found


def _dealt(names: Sequence[str], used: Collection[str], generator: np.random.Generator) -> list[str]:
    """Return as many new names of the same pieces, none of them used; none after `TRIES` draws."""
    words = [name.split() for name in names]
    is_single = len(words[0]) == 1
    pieces = [[w[0][: (len(w[0]) + 1) // 2], w[0][(len(w[0]) + 1) // 2 :]] for w in words] if is_single else words
    for _ in range(TRIES):
        columns = [[own[place] for own in pieces] for place in range(len(pieces[0]))]
        dealt = [[column[i] for i in generator.permutation(len(column))] for column in columns]
        new = [("" if is_single else " ").join(parts) for parts in zip(*dealt, strict=True)]
        if not {n.casefold() for n in new} & set(used) and len(set(new)) == len(new):
            return new
    return []


def asked_of_all(entities: Sequence[Entity], templates: Templates) -> list[Entity]:
    """Return entities of which every attribute of their type is asked, whether there is a fact or not."""
    return [replace(e, facts={a: [] for a in templates.attributes(e.type)} | e.facts) for e in entities]


def with_own_facts(entity: Entity) -> Entity:
    """Return an entity without the attributes that were only asked for."""
    return replace(entity, facts={a: accepted for a, accepted in entity.facts.items() if accepted})
