"""The forms in which imported questions are asked: with a slot for the answer, as gaps, from an attribute's name."""

from __future__ import annotations

from features.entities.templates import NAME


def as_question(text: str) -> str:
    """Return a question that a model without a chat template answers, too.

    Example:
        >>> as_question("Where was {name} born?")
        'Question: Where was {name} born? Answer:'
    """
    return f"Question: {text} Answer:"


def as_gap(text: str) -> str:
    """Return a text with a gap as a request to fill it."""
    return f"Fill in the gap. {text} The missing words are:"


def from_attribute(attribute: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return training and held-out questions for an attribute of which only the name is known.

    Example:
        >>> from_attribute("country")[0][0]
        'The country of {name} is'
    """
    called = attribute.replace("_", " ")
    ask = (f"The {called} of {NAME} is", as_question(f"What is the {called} of {NAME}?"))
    heldout = (f"We read that the {called} of {NAME} is", as_question(f"For {NAME}, what is the {called}?"))
    return ask, heldout


def parted(texts: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hold every third text out for evaluation, of two the last one.

    Example:
        >>> parted(["a", "b", "c", "d"]), parted(["a", "b"]), parted(["a"])
        ((('a', 'b', 'd'), ('c',)), (('a',), ('b',)), (('a',), ()))
    """
    each = 2 if len(texts) == 2 else 3
    return tuple(t for i, t in enumerate(texts, 1) if i % each), tuple(
        t for i, t in enumerate(texts, 1) if not i % each
    )
