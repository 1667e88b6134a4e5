"""Other names of a kind, as the model itself writes them where one is called for: sampled, parsed, each once.

A beginning ends where a name follows ("They travelled from Paris to"). Of every answer the names in front are read:
runs of words that begin with a capital, parted by commas and "and". What is said more often comes first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from features.entities.templates import NAME
from sae_train.config import Decoding
from sae_train.lm.answering import write_answers
from sae_train.lm.generate import encode_prompts
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import Advance, no_advance
from sae_train.text.words import normalize

NAME_TOKENS = 16  # of an answer that is read for names
BLOCK = 32  # answers drawn to one beginning between two reports of progress
# A full stop ends a sentence behind a word of three letters or more: not in "St. Petersburg" or "J. R. R. Tolkien".
_PARTS = re.compile(r"\s*(?:[,;\n•*()\[\]、，،]|\band\b|\bor\b|&|\d+[.)]|[!?:](?=\s|$)|(?<=\w\w\w)\.(?=\s|$))\s*")
_LINKS = frozenset("of the de van von da la le el al bin del della di der du dos".split())
_QUOTES = "\"'“”‘’«»`_"


def names_in(text: str) -> list[str]:
    """Return the names that a text begins with, to the end of its first paragraph.

    Example:
        >>> names_in(" Rome, the United Nations and Ludwig van Beethoven, who wrote for Prague")
        ['Rome', 'United Nations', 'Ludwig van Beethoven']
        >>> names_in(" a large city")
        []
    """
    return [name for name, _ in _read(text)]


def _read(text: str) -> list[tuple[str, bool]]:
    """Return the names that a text begins with, and whether each is closed: no word goes on right behind it."""
    found: list[tuple[str, bool]] = []
    for part in _PARTS.split(text.lstrip().split("\n\n")[0]):
        words = part.strip(_QUOTES + " -").split()
        while words and words[0].lower() in _LINKS and not _is_capital(words[0]):
            words = words[1:]
        if not words:
            continue
        run = _leading_name(words)
        if run:
            found.append((" ".join(run).strip(_QUOTES + " .-"), len(run) == len(words)))
        if len(run) < len(words):  # the sentence goes on about something else
            break
    return [(name, is_closed) for name, is_closed in found if sum(map(str.isalpha, name)) > 1]


def _leading_name(words: Sequence[str]) -> list[str]:
    """Return the words in front that are a name: capitals, and small links between them."""
    last = 0
    for index, word in enumerate(words):
        if _is_capital(word):
            last = index + 1
        elif word not in _LINKS or index == 0:
            break
    return [*words[:last]]


def _is_capital(word: str) -> bool:
    """Tell whether a word may begin a name; scripts without capitals always may."""
    first = word.strip(_QUOTES)[:1]
    return first.isalpha() and first == first.upper()


def ranked_names(answers: Iterable[str], name: str) -> list[str]:
    """Return the names in answers, most often said first; without `name` and what holds it or is a part of it.

    A single word counts only if in some answer no word goes on right behind it: "All roads lead there" names nobody.
    A name that begins with another one that is said at least as often is that one with more words behind it, and is
    left out. How often counts the less, the more words a name has too many or too few, beside the name at hand: behind
    a name a text may go on in capitals.

        weight = count / (1 + |words - words of the name at hand|)

    Example:
        >>> ranked_names([" Rome, Berlin", " Rome Italy", " Rome and Paris"], "Paris")
        ['Rome', 'Berlin']
    """
    counts: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    closed: set[str] = set()
    for answer in answers:
        read = _read(answer)
        closed |= {normalize(found) for found, is_closed in read if is_closed}
        for found in dict.fromkeys(found for found, _ in read):
            key = normalize(found)
            counts[key] += 1
            spelled.setdefault(key, found)
    counts = Counter({key: count for key, count in counts.items() if " " in key or key in closed})
    own = f" {normalize(name)} "
    n_words = len(name.split())

    def weight(key: str) -> float:
        return counts[key] / (1 + abs(len(key.split()) - n_words))

    ranked = sorted(counts, key=lambda key: (-weight(key), key))
    kept = [key for key in ranked if key and own not in f" {key} " and f" {key} " not in own]
    shorter = {key: _prefixes(key) & counts.keys() for key in kept}
    return [spelled[key] for key in kept if not any(counts[p] >= counts[key] for p in shorter[key])]


def _prefixes(key: str) -> set[str]:
    """Return the beginnings of a name that are shorter by a word or more."""
    words = key.split()
    return {" ".join(words[:n]) for n in range(1, len(words))}


def ask_for_names(
    lm: LanguageModel,
    beginnings: Sequence[str],
    name: str,
    *,
    n: int,
    samples: int,
    seed: int,
    advance: Advance = no_advance,
) -> list[str]:
    """Return up to `n` other names, as the model writes them behind beginnings, most often said first.

    Args:
        lm: The model.
        beginnings: Texts that end where a name follows; `{name}` in them becomes the name at hand.
        name: The name at hand, which is not among the result.
        n: Most names.
        samples: Answers drawn behind each beginning at temperature one, beside the greedy one.
        seed: Of the draws.
        advance: Called with the number of answers written.
    """
    prompts = encode_prompts(lm, [text.replace(NAME, name) for text in beginnings])
    answers: list[str] = []
    for index, start in enumerate(range(0, samples, BLOCK)):
        drawn = min(BLOCK, samples - start)
        decoding = Decoding(NAME_TOKENS, samples=drawn, temperature=1.0, seed=seed * samples + index)
        for written in write_answers(lm, prompts, decoding):
            answers += [*([] if index else [written.greedy]), *written.samples]
        advance(drawn * len(prompts))
    return ranked_names(answers, name)[:n]
