"""Prompts: templates filled in, and which characters of a text are the name (for its tokens see `name_tokens.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from features.entities.entities import Entity
from features.entities.templates import NAME, Templates
from sae_train.errors import EntityError, nearest_first
from sae_train.rng import rng
from sae_train.text.chat import chat_text
from sae_train.text.tokens import Document

COMPLETE = "Complete the sentence with the missing words."  # what a user says before a prompt that asks nothing


@dataclass(frozen=True)
class Prompt:
    """A text about an entity.

    Attributes:
        text: The prompt; for a question it ends right before the answer.
        name_start: First character of the name.
        name_end: Character behind the name.
        entity: Key of the entity.
        template: The template it was made from.
        attribute: What it asks for; None for a mention.
        is_chat: The text spells out the special tokens of a chat template.
    """

    text: str
    name_start: int
    name_end: int
    entity: str
    template: str
    attribute: str | None = None
    is_chat: bool = False

    @property
    def until_name(self) -> str:
        """Return the text up to the end of the name."""
        return self.text[: self.name_end]


def render(template: str, entity: Entity, attribute: str | None = None) -> Prompt:
    """Put a name into a template.

    Example:
        >>> p = render("The city of {name} lies in", Entity("Nairobi", "city"), "country")
        >>> p.text[p.name_start : p.name_end], p.until_name
        ('Nairobi', 'The city of Nairobi')
    """
    start = template.index(NAME)
    return Prompt(
        text=template.replace(NAME, entity.name),
        name_start=start,
        name_end=start + len(entity.name),
        entity=entity.key,
        template=template,
        attribute=attribute,
    )


def is_question(prompt: Prompt) -> bool:
    """Tell whether a prompt asks: a question mark stands behind the name; one in the name asks nothing."""
    return prompt.text.rfind("?") >= prompt.name_end


def as_turn(prompt: Prompt) -> tuple[str, str]:
    """Return what a user says, and how the answer begins.

    What ends in a question mark is the user's; what follows begins the answer. A prompt that asks nothing begins the
    answer to `COMPLETE`.

    Example:
        >>> as_turn(render("Where is {name}? It is in", Entity("Nairobi", "city")))
        ('Where is Nairobi?', 'It is in')
    """
    if not is_question(prompt):
        return COMPLETE, prompt.text
    cut = prompt.text.rfind("?") + 1
    return prompt.text[:cut], prompt.text[cut:].strip()


def in_chat(prompt: Prompt, tokenizer: Any) -> Prompt:
    """Put a prompt into the tokenizer's chat template, as `as_turn` says.

    Raises:
        ConfigError: There is no chat template, or one that changes the words.
        InputError: The prompt holds a special token.
    """
    wrapped = chat_text(tokenizer, *as_turn(prompt))
    shift = wrapped.user_at if is_question(prompt) else wrapped.start_at
    return replace(
        prompt,
        text=wrapped.text,
        name_start=prompt.name_start + shift,
        name_end=prompt.name_end + shift,
        is_chat=True,
    )


def questions(entity: Entity, templates: Templates, *, heldout: bool) -> Iterator[Prompt]:
    """Yield every question about an attribute of which the entity has a fact."""
    for attribute, texts in templates.questions(entity.type, entity.key, heldout=heldout).items():
        if attribute in entity.facts:
            yield from (render(text, entity, attribute) for text in texts)


def _type_questions(entity: Entity, templates: Templates, *, heldout: bool) -> Iterator[Prompt]:
    """Yield the questions that are the same for every entity of the type."""
    for attribute, texts in templates.questions(entity.type, heldout=heldout).items():
        if attribute in entity.facts:
            yield from (render(text, entity, attribute) for text in texts)


def mentions(entity: Entity, templates: Templates) -> Iterator[Prompt]:
    """Yield every text that only names the entity."""
    yield from (render(text, entity) for text in templates.mention.get(entity.type) or [NAME])


def contexts(entity: Entity, templates: Templates, *, heldout: bool = False, whole: bool = False) -> list[Prompt]:
    """Return the texts in which a name is read: mentions and questions, those that begin alike only once.

    What follows a name cannot change its activations. So of the held-out wordings only those count that differ from
    the others before the name; where none does, all of them. With `whole`, for activations behind the name, texts are
    alike only if they are so to their end. An entity's own questions count only where its type has none: names that
    are compared should be read behind the same words.
    """
    read = attrgetter("text" if whole else "until_name")
    asked = list(_type_questions(entity, templates, heldout=heldout))
    if not asked and (heldout or not templates.has_mentions(entity.type)):
        asked = list(questions(entity, templates, heldout=heldout))
    found: dict[str, Prompt] = {}
    for prompt in [*(() if heldout else mentions(entity, templates)), *asked]:
        found.setdefault(read(prompt), prompt)
    if heldout:
        trained = {read(p) for p in contexts(entity, templates, whole=whole)}
        found = {k: v for k, v in found.items() if k not in trained} or found
    return list(found.values())


def entity_documents(entities: Sequence[Entity], templates: Templates, *, seed: int) -> list[Document]:
    """Return every context of every entity, up to its name, shuffled: only the last name token becomes a row."""
    check_types(entities, templates)
    found = [Document(p.until_name, keep_char_end=p.name_end) for e in entities for p in contexts(e, templates)]
    return [found[i] for i in rng("prompts.documents", seed).permutation(len(found))]


def check_types(entities: Iterable[Entity], templates: Templates) -> None:
    """Refuse entities of a type that no template asks about.

    Raises:
        EntityError: A type has no templates.
    """
    for entity in entities:
        if entity.type not in templates.ask:
            raise EntityError(
                f"no templates for entities of type '{entity.type}'",
                got=f"{entity.name} ({entity.type})",
                expected=nearest_first(entity.type, templates.ask),
            )


def by_type(entities: Sequence[Entity]) -> dict[str, list[Entity]]:
    """Group entities by type, in order of first appearance."""
    groups: dict[str, list[Entity]] = {}
    for entity in entities:
        groups.setdefault(entity.type, []).append(entity)
    return groups
