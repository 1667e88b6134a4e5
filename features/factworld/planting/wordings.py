"""Wordings of a planted world: the frames of the fact world, rotated, and sentences of each attribute's own.

Of every attribute three wordings are held out: a statement and a question whose frames other attributes are taught in,
and one sentence in words of its own that no document has.
"""

from __future__ import annotations

from dataclasses import dataclass

from features.factworld.templates import AttributePrompts, TypeTemplates, Wording, rotated_prompts


@dataclass(frozen=True)
class OwnWording:
    """The words of one attribute (`@` stands for the name).

    Attributes:
        frames: What goes into the frames.
        around: A sentence with the value (`#`) in the middle of it, or before the name; for training.
        heldout: A sentence that ends before the value and that nothing is taught in.
    """

    frames: Wording
    around: str
    heldout: str


WORDINGS: dict[str, dict[str, OwnWording]] = {
    "person": {
        "home city": OwnWording(
            Wording("home city", "lives in the city of", "In what city does @ live"),
            "The city of # is home to @.",
            "Letters to @ are sent to an address in",
        ),
        "profession": OwnWording(
            Wording("profession", "earns a living as a", "What does @ do for a living"),
            "Working as a # is what @ does every day.",
            "The profession printed on the business card of @ is",
        ),
        "instrument": OwnWording(
            Wording("instrument", "plays the", "What instrument does @ play"),
            "The # is what everyone asks @ to play.",
            "At every concert of @ the audience hears the sound of the",
        ),
        "language": OwnWording(
            Wording("mother tongue", "grew up speaking", "What language does @ speak"),
            "Speaking # comes easily to @.",
            "When @ talks to the family at home, the language is",
        ),
        "sport": OwnWording(
            Wording("favourite sport", "is a great fan of", "What sport does @ like best"),
            "Of all sports, # is the one that @ likes.",
            "The sport that @ never misses on television is",
        ),
    },
    "company": {
        "country": OwnWording(
            Wording("home country", "has its head office in", "In what country is @ based"),
            "From # comes the company @.",
            "The country to which @ pays its taxes is",
        ),
        "product": OwnWording(
            Wording("main product", "makes its money with", "What does @ sell"),
            "Buyers of # know the company @ well.",
            "The warehouse of @ is full of",
        ),
        "logo colour": OwnWording(
            Wording("logo colour", "has a logo coloured", "What colour is the logo of @"),
            "A # logo hangs above the door of @.",
            "The trucks of @ show its logo, painted in",
        ),
        "mascot": OwnWording(
            Wording("mascot", "has chosen as its mascot the", "What animal is the mascot of @"),
            "The # on the flag is the mascot of @.",
            "At the entrance of @ visitors meet its mascot, a stuffed",
        ),
        "month": OwnWording(
            Wording("founding month", "was founded in the month of", "In what month was @ founded"),
            "Every # the company @ remembers its founding.",
            "The party for the founding of @ is held each year in",
        ),
    },
}

MENTIONS: dict[str, tuple[str, ...]] = {
    "person": (
        "@ was at the meeting as well.",
        "Yesterday we talked about @ for a while.",
        "The letter was signed by @ and two others.",
        "There is a photograph of @ on the wall.",
        "Nobody had asked @ about it before.",
        "The list begins with @ and goes on for a page.",
        "After the break @ came back to the table.",
        "I think that @ would agree with this.",
    ),
    "company": (
        "@ was on the list as well.",
        "Yesterday we read about @ in the newspaper.",
        "The contract was signed by @ and two others.",
        "There is a note about @ in the files.",
        "Nobody had heard from @ for a week.",
        "The report begins with @ and goes on for a page.",
        "After the meeting @ sent a short answer.",
        "I think that @ would agree with this.",
    ),
}
"""type -> sentences that name an entity and tell nothing about it."""
PRONOUNS = {"person": "This person", "company": "This company"}


def planted_templates(n_facts: int) -> dict[str, TypeTemplates]:
    """Return the templates of every type for its first `n_facts` attributes; they are the same in every world.

    Example:
        >>> planted_templates(1)["company"].prompts["country"].heldout[-1]
        'The country to which {name} pays its taxes is'
    """
    keys = [(type_, attribute) for type_, found in WORDINGS.items() for attribute in found]
    shifts = {key: i for i, key in enumerate(keys)}
    return {
        type_: TypeTemplates(
            mention=tuple(named(text) for text in MENTIONS[type_]),
            prompts={a: _prompts(type_, wording, shifts[type_, a]) for a, wording in list(found.items())[:n_facts]},
        )
        for type_, found in WORDINGS.items()
    }


def named(text: str) -> str:
    """Return a text with `{name}` in the place of `@`."""
    return text.replace("@", "{name}")


def _prompts(type_: str, wording: OwnWording, shift: int) -> AttributePrompts:
    """Return the frames trained on, and the three that are held out."""
    rotated = rotated_prompts(type_, wording.frames, shift)
    statement = next(p for p in rotated.heldout if not p.endswith(":"))
    question = next(p for p in rotated.heldout if p.endswith(":"))
    return AttributePrompts(rotated.ask, (statement, question, named(wording.heldout)))
