"""Names of a planted world: two invented words each, which known and unknown entities bear equally often.

A type has P first and P last words. Names come in rounds of P that use every word once:

    round r: first word i, last word (order(i) + r) mod P

so no name comes twice, P rounds are possible, and in a group of k rounds every word is borne by k entities. All words
of a place have the same number of tokens, so neither a word nor its length tells who is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sae_train.errors import ConfigError

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Spelling:
    """How the words of one place are spelled: any onset, vowel, middle and ending in this order."""

    onsets: tuple[str, ...]
    middles: tuple[str, ...]
    endings: tuple[str, ...]


def _spelling(onsets: str, middles: str, endings: str) -> Spelling:
    return Spelling(tuple(onsets.split()), tuple(middles.split()), tuple(endings.split()))


_VOWELS = "aeiou"
# Chosen so that no combination is a rude word.
_ONSETS = "b br d dr fl g gr h j k kl l m n p pr r s st t tr v w z"
SPELLINGS: dict[str, tuple[Spelling, Spelling]] = {
    "person": (
        _spelling(_ONSETS, "d l ll m n nd r rr s v", "a ea en ia ian iel in o on"),
        _spelling(_ONSETS, "ll n ng rd rn x", "en er ley man mont ov sen son wick"),
    ),
    "company": (
        _spelling(_ONSETS, "b d l m n v x", "ant ax eon era ium odyne onix or um"),
        _spelling(_ONSETS, "ct g l lt m n r rt v", "ado aco ane ell et ico ine ora"),
    ),
}
"""type -> spelling of the first and of the last word."""
CANDIDATES = 12  # words invented for each that is needed: enough to choose those of one length from


def piece_pools(
    type_: str, n: int, *, seed: int, count_tokens: CountTokens, taken: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return `n` first and `n` last words of a type, and add them to `taken` in lower case.

    Args:
        type_: A key of `SPELLINGS`.
        n: Words of each place.
        seed: Of the world.
        count_tokens: Returns the tokens that a word takes in a running text.
        taken: Words that may not be used, in lower case.

    Raises:
        ConfigError: There are not so many words of this spelling.
    """
    rng = random.Random(f"planting pieces {seed} {type_}")
    first, last = (_pool(spelling, n, rng, count_tokens, taken) for spelling in SPELLINGS[type_])
    return first, last


def _pool(
    spelling: Spelling, n: int, rng: random.Random, count_tokens: CountTokens, taken: set[str]
) -> tuple[str, ...]:
    """Invent words and keep `n` of them, all of the commonest length, those that are no whole token preferred."""
    words: dict[str, int] = {}
    for _ in range(n * CANDIDATES * 4):
        parts = (spelling.onsets, tuple(_VOWELS), spelling.middles, spelling.endings)
        word = "".join(rng.choice(part) for part in parts)
        if word not in taken:
            words.setdefault(word.capitalize(), 0)
        if len(words) == n * CANDIDATES:
            break
    words = {word: count_tokens(word) for word in words}
    invented = [length for length in words.values() if length > 1]  # one token is a word that the model has met
    common = max(sorted(set(invented)), key=invented.count, default=1)
    ranked = sorted(words, key=lambda word: (words[word] == 1, abs(words[word] - common)))
    if len(ranked) < n:
        raise ConfigError("too few names", got=f"{len(ranked)} words", expected=f"{n}", field="n_entities")
    taken.update(word.lower() for word in ranked[:n])
    return tuple(rng.sample(ranked[:n], n))


def deal_names(
    pools: tuple[tuple[str, ...], tuple[str, ...]], sizes: Collection[int], rng: random.Random
) -> list[list[str]]:
    """Return groups of names; within a group every word is borne as often as every other, or once more.

    Args:
        pools: First and last words, equally many.
        sizes: Names of each group; together at most the square of the words of a place.
        rng: Draws who is called how.

    Example:
        >>> groups = deal_names((("Ada", "Ivo"), ("Moss", "Reed")), [2, 2], random.Random(0))
        >>> sorted(name.split()[0] for name in groups[0]), len({*groups[0], *groups[1]})
        (['Ada', 'Ivo'], 4)
    """
    first, last = pools
    n, round_ = len(first), 0
    assert len(last) == n, "as many first as last words"
    order = rng.sample(range(n), n)
    rounds = rng.sample(range(n), n)
    spare: list[str] = []  # of the rounds that a group did not use up
    groups: list[list[str]] = []
    for size in sizes:
        group: list[str] = []
        while size - len(group) >= n and round_ < n:
            group += _round(first, last, order, rounds[round_], rng)
            round_ += 1
        rest = size - len(group)
        if rest and round_ < n:
            names = _round(first, last, order, rounds[round_], rng)
            round_ += 1
            group, spare = group + names[:rest], spare + names[rest:]
        elif rest:
            group, spare = group + spare[:rest], spare[rest:]
        assert len(group) == size, "more names than the words make"
        groups.append(group)
    return groups


def _round(
    first: tuple[str, ...], last: tuple[str, ...], order: list[int], shift: int, rng: random.Random
) -> list[str]:
    """Return the names of one round in random order."""
    names = [f"{word} {last[(order[i] + shift) % len(last)]}" for i, word in enumerate(first)]
    return rng.sample(names, len(names))
