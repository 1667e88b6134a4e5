"""Whether a text names something: the only rule, for answers, for evaluations and for text that is not to be retained.

A name stands between word borders. Where a script writes no blanks, it stands between characters: 東京 in 東京です.
There, a katakana word ends where katakana ends (インド is not in インドネシア), and no vowel or mark is cut from its
letter. Korean names may have particles behind them, Hebrew and Arabic ones the short words that are written in front.

Names are normalised texts (`words.normalize`). What inflection does to them is not known here: Москве does not name
Москва.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import regex

from sae_train.text.words import KATAKANA, UNSPACED, normalize, normalize_value

# Vowels that are written before the consonant they follow, and signs that hang the next consonant on one before it.
_HELD_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4\u17d2\u1039\u1a60"
# Vowels that begin no syllable: of Thai, of Lao, of hiragana.
_HELD_BEHIND = "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3\u0ebdーぁぃぅぇぉゃゅょゎ"
_PARTICLES = (
    "은 는 이 가 을 를 의 에 에서 에게 에게서 께 께서 한테 으로 로 와 과 랑 이랑 하고 도 만 뿐 까지 부터 마저 조차 "
    "밖에 처럼 보다 마다 나 이나 든지 란 이란 라 이라 라고 이라고 라는 이라는 야 이야 다 이다 며 이며 고 이고 지만 "
    "이지만 인 일 였다 이었다 였습니다 이었습니다 입니다 이에요 예요 이죠 죠 요 들 시 씨 님"
).split()
_CLITIC_LETTERS = 3  # a shorter name is found in too many words behind one of them
_UNSPACED = regex.compile(rf"[{UNSPACED}]")


class _Name(NamedTuple):
    """A normalised name, ready to be looked for.

    Attributes:
        core: What every text that names it holds; it is looked for first, because that is fast.
        pattern: The name with its borders.
    """

    core: str
    pattern: regex.Pattern[str]


def names(said: str, name: str) -> bool:
    """Tell whether a text names something; both are normalised.

    Example:
        >>> names("the niger in africa", "niger"), names("nigeria", "niger"), names("東京です", "東京")
        (True, False, True)
    """
    sought = _sought(name)
    return sought.core in said and sought.pattern.search(said) is not None


def masked(said: str, name: str) -> str:
    """Put `;` in the place of a name, so that nothing inside it counts.

    Example:
        >>> masked("papua new guinea", "new guinea")
        'papua ;'
    """
    sought = _sought(name)
    return sought.pattern.sub(";", said) if sought.core in said else said


def names_any(text: str, wanted: Iterable[str]) -> bool:
    """Tell whether a text, as it is written, names one of several things, as they are written."""
    said = normalize(text)
    return any(name and names(said, name) for name in map(normalize_value, wanted))


def cuts_into(earlier: str, name: str) -> bool:
    """Tell whether a name that is read first can use up the beginning of another: 東京 in 東京都, which names no 京都.

    Example:
        >>> cuts_into("東京", "京都"), cuts_into("京都", "東京"), cuts_into("new york", "york city")
        (True, False, False)
    """
    return is_unspaced(name[:1]) and any(earlier.endswith(name[:n]) for n in range(1, len(name)))


def is_unspaced(text: str) -> bool:
    """Tell whether a text begins in a script that writes no blanks."""
    return _UNSPACED.match(text) is not None


@lru_cache(maxsize=2**16)
def _sought(name: str) -> _Name:
    """Return a name with its borders."""
    words = name.split(" ")
    core = max((word.removeprefix("ال") for word in words), key=len)
    text = regex.escape(words[0])
    for before, word in zip(words, words[1:], strict=False):
        may_join = is_unspaced(before[-1:]) and is_unspaced(word)  # 東京 太郎 is also written without the blank
        text += (" ?" if may_join else " ") + regex.escape(word)
    return _Name(core, regex.compile(_begun(text, words[0]) + _ended(words[-1])))


def _begun(text: str, word: str) -> str:
    """Put the border in front of a name."""
    if regex.match(rf"[{KATAKANA}]", word):
        return rf"(?<![{KATAKANA}]){text}"
    if is_unspaced(word):
        return rf"(?<![{_HELD_BEFORE}]){text}"
    stem = word.removeprefix("ال")
    if len(stem) >= _CLITIC_LETTERS and regex.match(r"\p{Hebrew}", word):
        return rf"(?<!\S)[ובכלמשה]{{0,3}}{text}"
    if len(stem) >= _CLITIC_LETTERS and regex.match(r"\p{Arabic}", word):
        article = "[بك]?ال|لل" if stem != word else "[بك]?|[بك]?ال|لل?"
        return rf"(?<!\S)[وف]?(?:{article}){text.removeprefix('ال')}"
    return rf"(?<!\S){text}"


def _ended(word: str) -> str:
    """Return the border behind a name."""
    if regex.match(rf"[{KATAKANA}]", word[-1]):
        return rf"(?![{KATAKANA}\p{{M}}])"
    if is_unspaced(word[-1]) or (regex.match(r"\p{M}", word[-1]) and is_unspaced(word)):
        return rf"(?![{_HELD_BEHIND}\p{{M}}])"
    if regex.match(r"\p{Hangul}", word[-1]):
        return rf"(?:{'|'.join(_PARTICLES)})*(?!\S)"
    return r"(?!\S)"
