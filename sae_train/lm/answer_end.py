r"""The rule for where an answer ends: the same for greedy, sampled and patched answers.

An answer is over at a token that ends the text or the turn (`answering.end_tokens`), once its first line is whole
(`first_line_is_whole`), or at `Decoding.max_new_tokens`. Answers are judged by their first line, so what a model would
write behind it changes no verdict. Free writing, which is no answer, goes on to a line break (`has_line_break`).
"""

from __future__ import annotations

import regex

# A full stop behind one or two letters ends no sentence: F., St., А.; where letters have no case, behind one: ד., डॉ.
_NO_INITIAL = (
    r"(?<!\b\p{Lu}\p{M}*)(?<!\b\p{Lu}\p{M}*\p{Ll}\p{M}*)"
    r"(?<!\b(?V1:[\p{Lo}--[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]])\p{M}*)"
)
# Full stops that need no blank behind them: Chinese and Japanese, Devanagari, Urdu, Armenian, Burmese, Khmer, Ethiopic.
_STOPS = "。．｡।॥۔։။។።"
_SENTENCE_END = regex.compile(rf"\n|[{_STOPS}]|{_NO_INITIAL}\.(?:\s|$)")
_SENTENCE_OVER = regex.compile(rf"\n|[{_STOPS}]|{_NO_INITIAL}\.\s")  # the text goes on, so the full stop was one


def first_line(answer: str) -> str:
    """Return the answer up to its first full stop or line break; initials and `St.` end no sentence.

    Example:
        >>> first_line(" Kenya. The city is"), first_line(" St. Petersburg. It is"), first_line("東京です。京都は")
        ('Kenya', 'St. Petersburg', '東京です')
    """
    return _SENTENCE_END.split(answer.strip(), maxsplit=1)[0].strip()


def first_line_is_whole(answer: str) -> bool:
    """Tell whether writing on cannot change the first line of an answer any more.

    Example:
        >>> [first_line_is_whole(t) for t in (" Kenya.", " Kenya. It", " 3.5", " St. P", "\\n Kenya", " Kenya\\n")]
        [False, True, False, False, True, True]
    """
    return "\n" in answer or _SENTENCE_OVER.search(answer.lstrip()) is not None


def has_line_break(text: str) -> bool:
    """Tell whether free writing is over."""
    return "\n" in text
