"""A name in a text: where it stands, in full or in part, and which capitalised words may be one."""

from __future__ import annotations

import re

from features.entities.templates import NAME

_PARTICLE = r"(?:de|da|del|della|der|den|di|du|van|von|la|le|al|bin|ibn|el|y|of|the)"
_NAME = re.compile(rf"(?<!\w)(?:[A-ZÀ-ÖØ-ÞĀ-Ž][\w'’-]*\.?)(?:\s+(?:{_PARTICLE}\s+)*(?:[A-ZÀ-ÖØ-ÞĀ-Ž][\w'’-]*\.?))+")
_POSSESSIVE = re.compile(r"['’]s?$")
_BEGINNINGS = frozenset(
    "a an and are as at besides by can could did do does during for from given had has have how if in is may might of"
    " on please should since some the these this through to was were what when where which while who whose why will"
    " with would yes no".split()
)
_SHORTEST = 3  # letters of a part of a name that may stand for it


def templated(text: str, name: str) -> str | None:
    """Return a text with `{name}` in the place of the name; None where it is not named.

    Where the full name is not there, the longest part of it is taken for it: the text then says the full name.

    Example:
        >>> templated("Was Mira Tolvan's father a baker?", "Mira Tolvan")
        "Was {name}'s father a baker?"
        >>> templated("What does Tolvan play?", "Mira Tolvan"), templated("What does she play?", "Mira Tolvan")
        ('What does {name} play?', None)
    """
    if "{" in text or "}" in text:
        return None
    for part in _parts(name):
        pattern = re.compile(rf"(?<!\w){re.escape(part)}(?!\w)")
        if pattern.search(text):
            return pattern.sub(NAME, text)
    return None


def _parts(name: str) -> list[str]:
    """Return the name and its runs of capitalised words, longest first; of two as long the last, a family name."""
    words = name.split()
    runs = [(n, i) for n in range(len(words), 0, -1) for i in range(len(words) - n, -1, -1)]
    parts = [" ".join(words[i : i + n]) for n, i in runs]
    return [name, *(p for p in parts[1:] if p[:1].isupper() and len(p) >= _SHORTEST)]


def names_in(text: str) -> list[str]:
    """Return runs of two and more capitalised words, each once.

    Words that begin questions and sentences are left out in front of a name.

    Example:
        >>> names_in("Where was Mira Tolvan born? Mira Tolvan's town is Velmora."), names_in("Does Hsu Yun-Hwa write?")
        (['Mira Tolvan'], ['Hsu Yun-Hwa'])
    """
    found: dict[str, None] = {}
    for match in _NAME.finditer(text):
        words = _POSSESSIVE.sub("", match[0]).rstrip(".").split()
        while words and words[0].casefold() in _BEGINNINGS:
            words = words[1:]
        if len(words) > 1:
            found.setdefault(" ".join(words))
    return list(found)
