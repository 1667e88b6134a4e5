"""Which texts count as a right answer where a benchmark's answers are whole sentences."""

from __future__ import annotations

from collections.abc import Iterable

from sae_train.lm.answer_end import first_line


def accepted(answers: Iterable[str]) -> tuple[str, ...]:
    """Return the answers and the first sentence of each, the first answer first.

    An answer is judged by its first sentence, so one of several sentences could never be right as a whole.

    Example:
        >>> accepted(["She plays the lute. It was her aunt's.", "The lute."])
        ("She plays the lute. It was her aunt's.", 'She plays the lute', 'The lute.', 'The lute')
    """
    found: dict[str, None] = {}
    for answer in answers:
        found.setdefault(answer)
        if first_line(answer):
            found.setdefault(first_line(answer))
    return tuple(found)
