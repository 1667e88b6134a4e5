"""Names of a fact world: three words, each taken from a small pool shared by known and unknown entities.

A name is `first middle last`. A type has 50 first words, 50 middle words and 10 last words, all invented from
syllables, so there are 25,000 possible names and a word alone does not tell known from unknown:

- first and middle words are dealt in rounds of 50 names that use every word of both pools exactly once;
  the 50 known names are one round, each further round belongs to one group of unknown names;
- the last word is drawn independently for every name. It is *not* dealt out evenly on purpose: an even deal
  makes a cross-validated probe worse than chance (a word frequent among the known names of the training folds
  must then be rare among those of the test fold; AUROC 0.1-0.3 instead of 0.5).

Imports nothing of the workbench.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

N_PER_ROUND = 50
"""First words, middle words, and names of one round."""
N_LAST = 10
"""Last words of a type."""

_ONSETS = "b br d dr f fl g gr h j k kl l m n p pr r s st t tr v z".split()
_VOWELS = "a e i o u".split()
_CODAS = "k l m n nd r rk rn s sk st t th x".split()


@dataclass(frozen=True)
class NamePools:
    """The words names of one type are composed of, each pool without repetition."""

    first: tuple[str, ...]
    middle: tuple[str, ...]
    last: tuple[str, ...]


def invent_words(n: int, rng: random.Random, taken: set[str]) -> tuple[str, ...]:
    """Return `n` new capitalised words of two syllables and add them to `taken` (lower case).

    Example:
        >>> words = invent_words(3, random.Random(0), taken := set())
        >>> len(set(words)), taken == {word.lower() for word in words}
        (3, True)
    """
    words: list[str] = []
    while len(words) < n:
        parts = (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS)
        word = "".join(rng.choice(part) for part in parts)
        if word not in taken:
            taken.add(word)
            words.append(word.capitalize())
    return tuple(words)


def name_pools(types: Sequence[str], seed: int, reserved: Collection[str] = ()) -> dict[str, NamePools]:
    """Return the pools of every type; no word is shared between pools or is one of `reserved`."""
    rng = random.Random(f"factworld names {seed}")
    taken = {word.lower() for word in reserved}
    sizes = (N_PER_ROUND, N_PER_ROUND, N_LAST)
    return {type_: NamePools(*(invent_words(n, rng, taken) for n in sizes)) for type_ in types}


class NameDealer:
    """Deals the names of one type in rounds of 50, never the same name twice.

    Example:
        >>> pools = name_pools(["city"], seed=0)["city"]
        >>> names = NameDealer(pools, random.Random(0)).deal_round()
        >>> sorted(name.split()[0] for name in names) == sorted(pools.first)
        True
    """

    def __init__(self, pools: NamePools, rng: random.Random) -> None:
        self._pools = pools
        self._rng = rng
        self._dealt: set[str] = set()

    def deal_round(self) -> list[str]:
        """Return 50 new names in random order that use every first and every middle word exactly once."""
        first, middle = list(self._pools.first), list(self._pools.middle)
        self._rng.shuffle(first)
        self._rng.shuffle(middle)
        names = [self._new_name(*pair) for pair in zip(first, middle, strict=True)]
        self._dealt.update(names)
        return names

    def deal(self, n: int) -> list[str]:
        """Return `n` new names from as few rounds as possible."""
        n_rounds = -(-n // N_PER_ROUND)
        return [name for _ in range(n_rounds) for name in self.deal_round()][:n]

    def _new_name(self, first: str, middle: str) -> str:
        """Complete a name by a random last word that makes it new."""
        free = [name for last in self._pools.last if (name := f"{first} {middle} {last}") not in self._dealt]
        assert free, f"all names {first} {middle} … are used up"
        return self._rng.choice(free)
