"""Wordings of a fact world: how a fact is stated, how it is asked for, and sentences that only mention a name.

There are ten declarative frames and nine frames of questions. An attribute trains on six and five of them
(`ask`) and is evaluated on two and two of the others (`heldout`); which ones rotates from attribute to
attribute. So every word of a held-out prompt is familiar from other attributes, while the prompt itself
never occurs in the corpus. (The plainest frame, `@ {predicate}`, is part of several others and therefore
always trained on.) All prompts end right before the answer, which follows as " value."

Imports only the facts beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from features.factworld.facts import VALUES

N_ASK = 5
"""Training frames of an attribute of either sort; the plain one comes on top."""
N_HELDOUT = 2
"""Held-out frames of an attribute of either sort."""


@dataclass(frozen=True)
class Wording:
    """The words of one attribute: a noun, a predicate, and a question (`@` stands for the name)."""

    noun: str
    predicate: str
    question: str


_WORDINGS: dict[tuple[str, str], Wording] = {
    ("person", "birthplace"): Wording("birthplace", "comes from", "Where does @ come from"),
    ("person", "job"): Wording("job", "works as a", "What work does @ do"),
    ("person", "birth year"): Wording("birth year", "was born in the year", "In what year was @ born"),
    ("person", "instrument"): Wording("instrument", "likes to play the", "What does @ like to play"),
    ("city", "country"): Wording("country", "lies in the country of", "In what country does @ lie"),
    ("city", "river"): Wording("river", "was built on the river", "On what river was @ built"),
    ("city", "founding year"): Wording("founding year", "was founded in the year", "In what year was @ founded"),
    ("city", "product"): Wording("product", "is famous for its", "For what product is @ famous"),
    ("film", "director"): Wording("director", "was directed by", "Who was the director of @"),
    ("film", "genre"): Wording("genre", "belongs to the genre", "To what genre does @ belong"),
    ("film", "release year"): Wording("release year", "came out in the year", "In what year did @ come out"),
    ("film", "language"): Wording("language", "was shot in the language", "In what language was @ shot"),
    ("song", "band"): Wording("band", "is played by the band", "By what band is @ played"),
    ("song", "style"): Wording("style", "is sung in the style of", "In what style is @ sung"),
    ("song", "chart year"): Wording("chart year", "topped the charts in", "When did @ top the charts"),
    ("song", "cover colour"): Wording("cover colour", "has a cover coloured", "What colour is the cover of @"),
}

_PLAIN = "@ {predicate}"
_STATEMENTS = (
    "The {noun} of @ is",
    "The {type} @ {predicate}",
    "We know that @ {predicate}",
    "The {noun} of the {type} @ is",
    "It is said that @ {predicate}",
    "We read that the {noun} of @ is",
    "In the records @ {predicate}",
    "About the {type} @ we read that the {noun} is",
    "It is known that the {type} @ {predicate}",
)
_QUESTIONS = (
    "Q: What is the {noun} of @? A:",
    "Q: {question}? A:",
    "Question: What is the {noun} of the {type} @? Answer:",
    "Question: {question}? Answer:",
    "Tell me the {noun} of @. Answer:",
    "Q: Tell me the {noun} of the {type} @. A:",
    "Question: For @, what is the {noun}? Answer:",
    "Q: Do you know the {noun} of @? A:",
    "About @: what is the {noun}? A:",
)
_MENTIONS = (
    "@",
    "The {type} @",
    "We know that @",
    "It is said that @",
    "In the records @",
    "About the {type} @",
)


@dataclass(frozen=True)
class AttributePrompts:
    """Prompts of one attribute, each with `{name}` in it and the answer right after it."""

    ask: tuple[str, ...]
    heldout: tuple[str, ...]


@dataclass(frozen=True)
class TypeTemplates:
    """Texts of one entity type: mentions end with `{name}`, prompts end before an answer."""

    mention: tuple[str, ...]
    prompts: dict[str, AttributePrompts]


def world_templates() -> dict[str, TypeTemplates]:
    """Return the templates of every type; they are the same in every world.

    Example:
        >>> world_templates()["city"].mention[1]
        'The city {name}'
    """
    attributes = [(type_, attribute) for type_ in VALUES for attribute in VALUES[type_]]
    shifts = {key: i for i, key in enumerate(attributes)}
    return {
        type_: TypeTemplates(
            mention=tuple(_fill(frame, type_) for frame in _MENTIONS),
            prompts={a: rotated_prompts(type_, _WORDINGS[type_, a], shifts[type_, a]) for a in VALUES[type_]},
        )
        for type_ in VALUES
    }


def templates_json(templates: dict[str, TypeTemplates]) -> dict[str, object]:
    """Return the templates in the layout of `templates.json`."""
    return {
        type_: {"mention": list(t.mention)}
        | {a: {"ask": list(p.ask), "heldout": list(p.heldout)} for a, p in t.prompts.items()}
        for type_, t in templates.items()
    }


def rotated_prompts(type_: str, wording: Wording, shift: int) -> AttributePrompts:
    """Rotate the frames by twice `shift`, train on the first ones, hold out the next ones.

    Of a training prompt the first is the plain one; statements come before questions, in both lists.
    """
    ask: list[str] = [_fill(_PLAIN, type_, wording)]
    heldout: list[str] = []
    for frames in (_STATEMENTS, _QUESTIONS):
        rotated = [frames[(2 * shift + i) % len(frames)] for i in range(N_ASK + N_HELDOUT)]
        filled = [_fill(frame, type_, wording) for frame in rotated]
        ask += filled[:N_ASK]
        heldout += filled[N_ASK:]
    return AttributePrompts(tuple(ask), tuple(heldout))


def _fill(frame: str, type_: str, wording: Wording | None = None) -> str:
    if wording is not None:
        frame = frame.replace("{question}", wording.question).replace("{noun}", wording.noun)
        frame = frame.replace("{predicate}", wording.predicate)
    return frame.replace("{type}", type_).replace("@", "{name}")
