"""Words of a text in any script, without case, accents and punctuation: what answers and names are compared in.

Accents of Latin, Greek and Cyrillic letters are left away, and the points of Hebrew and Arabic, which most writers
leave away too. Every other combining mark is a part of its letter: the vowel signs of Devanagari, the tone marks of
Thai, the dots of kana. A script that writes no blanks between words gives runs of characters (`UNSPACED`); `pieces`
parts them. An emoji is a word, and so is a sign of a currency; `+` and `#` behind a letter belong to the word.

Source: Unicode's general categories, scripts and grapheme clusters (UAX #29), by the `regex` package.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import regex

KATAKANA = r"\p{Katakana}ー"
UNSPACED = (
    rf"{KATAKANA}\p{{Hiragana}}\p{{Han}}\p{{Bopomofo}}\p{{Yi}}\p{{Thai}}\p{{Lao}}\p{{Khmer}}\p{{Myanmar}}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}"
)
"""Scripts that put no blanks between words, as the inside of a character class."""

# Format characters (zero-width spaces, direction marks, soft hyphens), variants of a glyph, and signs of ownership. The
# tags that spell a flag stay, and the joiner inside an emoji.
_INVISIBLE = regex.compile(
    r"(?V1)[\p{Cf}--[\u200d\U000e0020-\U000e007f]]|[\u034f\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef™℠©®]"
)
_LOOSE_JOINER = regex.compile(
    r"(?<![\p{Extended_Pictographic}\p{Emoji_Modifier}])\u200d|\u200d(?!\p{Extended_Pictographic})"
)
_ACCENTS = regex.compile(
    r"\p{M}(?<=[\p{Latin}\p{Greek}]\p{M}+)"
    r"|(?!\u0306)\p{M}(?<=\p{Cyrillic}\p{M}+)"  # the breve of й and ў makes another letter
    r"|[\u0591-\u05c7--\p{P}]|[\u0640\u064b-\u0652\u0670\u06d6-\u06ed]|[\u0653-\u0655](?<=\u0627\p{M}+)",
    regex.V1,
)
_JOINED = r"(?:[+#]++(?!\p{L}))?"  # C++ and C# are not C
_LETTER, _NUMBER = rf"[\p{{L}}--[{UNSPACED}\p{{Hangul}}]]\p{{M}}*+", rf"[\p{{N}}--[{UNSPACED}]]\p{{M}}*+"
_COUNTS = regex.compile(
    r"[\p{L}\p{M}\p{N}\p{Sc}\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}\p{Cf}]"
)
_WORD = regex.compile(
    r"(?=[\p{Extended_Pictographic}\p{Regional_Indicator}])\X"
    rf"|(?:[[{UNSPACED}]&&[\p{{L}}\p{{N}}]]\p{{M}}*+)++"
    r"|(?:[\p{Hangul}&&\p{L}]\p{M}*+)++"
    rf"|(?:{_NUMBER})*+(?:{_LETTER})(?:{_LETTER}|{_NUMBER})*+{_JOINED}"
    rf"|(?:{_NUMBER})++"
    r"|\p{Sc}",
    regex.V1,
)
_ASCII_WORD = re.compile(r"[0-9]*+[a-z][a-z0-9]*+(?:[+#]++(?![a-z]))?|[0-9]++|\$")
_PIECE = regex.compile(rf"(?V1)[[{UNSPACED}\p{{Hangul}}]&&[\p{{L}}\p{{N}}]]\p{{M}}*+|[^\s[{UNSPACED}\p{{Hangul}}]]++")


def normalize(text: str) -> str:
    """Fold case, accents and punctuation; words stay apart by single spaces.

    Example:
        >>> normalize("  São Tomé & Príncipe. "), normalize("C++, 日本の首都。")
        ('sao tome principe', 'c++ 日本の首都')
    """
    plain = text.lower() if text.isascii() else _folded(text)
    return " ".join((_ASCII_WORD if plain.isascii() else _WORD).findall(plain))


@lru_cache(maxsize=2**16)
def normalize_value(text: str) -> str:
    """Return the same of a short text that is compared often."""
    return normalize(text)


def pieces(text: str) -> list[str]:
    """Return the words of a text; where a script writes no blanks, or particles without one, its characters.

    Example:
        >>> pieces("The capital: 東京です")
        ['the', 'capital', '東', '京', 'で', 'す']
    """
    return _PIECE.findall(normalize(text))


def graphemes(text: str) -> list[str]:
    """Return what a reader calls the letters of a text, each with its marks.

    Example:
        >>> len("हिन्दी"), len(graphemes("हिन्दी"))
        (6, 2)
    """
    return regex.findall(r"\X", text)


def same_text(a: str, b: str) -> bool:
    """Tell whether two texts differ at most in how their accents are encoded."""
    return a == b or unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b)


def _folded(text: str) -> str:
    """Fold case, accents, digits and what cannot be seen; punctuation outside ASCII becomes a blank."""
    plain = unicodedata.normalize("NFC", text).translate(_FOLDED)
    if plain.isascii():
        return plain
    if "\u200d" in plain:
        plain = _LOOSE_JOINER.sub("", plain)
    return unicodedata.normalize("NFC", _ACCENTS.sub("", plain))


class _Folded(dict[int, str]):
    """What every character is folded to, looked up once."""

    def __missing__(self, code: int) -> str:
        """Fold one character."""
        self[code] = self._fold(chr(code))
        return self[code]

    def _fold(self, char: str) -> str:
        if _INVISIBLE.match(char):
            return ""
        plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", char)).casefold().replace("♯", "#")
        plain = "".join(map(_without_stroke, plain))
        if not plain.isascii() and not _COUNTS.search(plain):
            return " "
        return "".join(str(unicodedata.decimal(c, c)) for c in plain)


def _without_stroke(char: str) -> str:
    """Return a Latin letter without the stroke through it, which Unicode does not take for a mark: ł, đ, ø; and ı."""
    found = _STROKE.fullmatch(unicodedata.name(char, ""))
    return found[1].lower() if found else char


_STROKE = re.compile(r"LATIN SMALL LETTER (?:DOTLESS )?([A-Z])(?: WITH (?:DIAGONAL )?STROKE|(?<=DOTLESS I))")
_FOLDED = _Folded()
