"""Grade an answer: right, refusal, wrong or empty. A pure function of text; no language model.

A right answer names an accepted value, whatever its case, accents and punctuation; what that means in scripts without
blanks between words is in `sae_train/text/naming.py`. Where the values of other entities are given, a longer one that
holds an accepted one counts as itself: "Papua New Guinea" is not Guinea.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from sae_train.lm.answer_end import first_line
from sae_train.text.naming import cuts_into, masked, names
from sae_train.text.words import normalize, normalize_value

Verdict = Literal["right", "refusal", "wrong", "empty"]
VERDICTS: tuple[Verdict, ...] = ("right", "refusal", "wrong", "empty")

# Beginnings of a refusal in normalised words; the polite words that instruct models put first are passed over.
_POLITE = (
    r"(?:(?:unfortunately|well|actually|but|and|sorry|i m sorry|i am sorry|i apologize|as an ai(?: language model)?"
    r"|as a language model) )*"
)
_NOT_ABLE = r"(?:do not|don t|dont|did not|didn t|cannot|can not|can t|cant|could not|couldn t)"
_BEGINNINGS = (
    r"unknown",
    r"un(?:clear|certain|specified|determined)",
    r"n a",
    r"no (?:information|idea|such|record|records|data|answer)",
    r"(?:it is |it s |that is |is )?not (?:known|clear|certain|specified|mentioned|available|possible|applicable)",
    r"(?:it is|it s|this is) (?:unknown|unclear|uncertain|impossible)",
    r"there (?:is|are) no",
    r"there isn t",
    rf"i {_NOT_ABLE}",
    r"i (?:have|ve|found|find) (?:no|never)",
    r"i (?:am|m) (?:not|unable|unsure|unaware|unfamiliar|afraid|an ai)",
    r"i (?:lack|need more)",
    r"(?:(?:could|can) you )?(?:please )?(?:provide|clarify)",
    r"(?:i m |i am )?sorry",
    r"i apologize",
    r"as an ai",
    r"as a language model",
)
_REFUSAL = re.compile(rf"{_POLITE}(?:{'|'.join(_BEGINNINGS)})\b")


def is_right(answer: str, accepted: Sequence[str], rivals: Iterable[str] = ()) -> bool:
    """Tell whether the first line of an answer names an accepted value, as a name of its own.

    Args:
        answer: What was said.
        accepted: Values that are right.
        rivals: Normalised values that are wrong although they hold a right one; `Rivals` finds them.

    Example:
        >>> is_right(" Niger, in Africa", ["Niger"]), is_right(" Nigeria", ["Niger"])
        (True, False)
        >>> is_right(" Papua New Guinea", ["Guinea"]), is_right(" Papua New Guinea", ["Guinea"], ["papua new guinea"])
        (True, False)
    """
    said = normalize(first_line(answer))
    for rival in rivals:
        said = masked(said, rival)
    return any(value and names(said, value) for value in map(normalize_value, accepted))


def judge(answer: str, accepted: Sequence[str], rivals: Iterable[str] = ()) -> Verdict:
    """Sort an answer: right, refusal (says it does not know), empty, or wrong."""
    if is_right(answer, accepted, rivals):
        return "right"
    said = normalize(first_line(answer))
    if not said:
        return "empty"
    return "refusal" if _REFUSAL.match(said) else "wrong"


class Rivals:
    """For accepted values, the other values that are not to be taken for one of them: longer ones that hold it.

    Where a script writes no blanks, also those that use up its beginning when they are read first.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._holding: dict[str, set[str]] = defaultdict(set)
        for value in {normalize_value(v) for v in values}:
            for word in value.split():
                # Names in ASCII are found by whole words alone; of others every character may begin one.
                for begin in [word] if word.isascii() else word:
                    self._holding[begin].add(value)

    def of(self, accepted: Sequence[str]) -> tuple[str, ...]:
        """Return them, longest first.

        Example:
            >>> Rivals(["Guinea", "Papua New Guinea", "Ghana"]).of(["Guinea"])
            ('papua new guinea',)
            >>> Rivals(["東京", "京都", "京都府"]).of(["京都"])
            ('京都府', '東京')
        """
        right = {normalize_value(v) for v in accepted} - {""}
        held = {v for r in right for v in self._near(r) if names(v, r) or cuts_into(v, r)}
        return tuple(sorted(held - right, key=lambda v: (-len(v), v)))

    def _near(self, value: str) -> set[str]:
        """Return the values that may be its rivals."""
        first = value.split()[0]
        return self._holding.get(first if first.isascii() else first[0], set())
