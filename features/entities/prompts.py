"""Templates and prompts: which characters of a text are the name (for its tokens see `name_tokens.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from features.entities.entities import Entity
from features.entities.named_inputs import world_part
from sae_train.errors import EntityError, FileFormatError, nearest_first
from sae_train.rng import rng
from sae_train.run.runs import require_file
from sae_train.text.chat import chat_text
from sae_train.text.tokens import Document

NAME = "{name}"
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


@dataclass(frozen=True)
class Templates:
    """Prompts per entity type.

    Attributes:
        mention: Texts that only name the entity, per type.
        ask: Questions per type and attribute: for labelling and training.
        heldout: Questions in other words: for evaluation only.
    """

    mention: dict[str, list[str]]
    ask: dict[str, dict[str, list[str]]]
    heldout: dict[str, dict[str, list[str]]]

    def attributes(self, kind: str) -> list[str]:
        """Return the attributes that can be asked of a type."""
        return list(self.ask.get(kind, {}))


def load_templates(source: str | Path) -> Templates:
    """Read and check a template file.

    Args:
        source: JSON of the documented form, or the name of a world.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: Not JSON of the documented form, an empty list of mentions or questions, a template without
            exactly one `{name}`, or a held-out wording that is a training one too.
    """
    path = require_file(world_part(source, "templates") or Path(source), "templates", field="templates")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="JSON") from error
    form = '{"city": {"mention": ["The city of {name}"], "country": {"ask": ["…{name}…"], "heldout": ["…"]}}}'
    if not isinstance(raw, dict) or not raw or not all(isinstance(v, dict) for v in raw.values()):
        raise FileFormatError(f"'{path}' holds no templates", got=type(raw).__name__, expected=form)
    mention: dict[str, list[str]] = {}
    ask: dict[str, dict[str, list[str]]] = {}
    heldout: dict[str, dict[str, list[str]]] = {}
    for kind, entry in raw.items():
        mention[kind] = _texts(entry.get("mention", [NAME]), f"{kind}.mention", path)
        ask[kind], heldout[kind] = {}, {}
        for attribute, questions in entry.items():
            if attribute == "mention":
                continue
            if not isinstance(questions, dict) or "ask" not in questions:
                raise FileFormatError(f"'{path}', {kind}.{attribute}", got=repr(questions)[:60], expected=form)
            ask[kind][attribute] = _texts(questions["ask"], f"{kind}.{attribute}.ask", path)
            heldout[kind][attribute] = _texts(
                questions.get("heldout", []), f"{kind}.{attribute}.heldout", path, least=0
            )
    for kind in ask:
        trained = {*mention[kind], *(t for texts in ask[kind].values() for t in texts)}
        both = sorted(trained & {t for texts in heldout[kind].values() for t in texts})
        if both:
            raise FileFormatError(
                f"'{path}', {kind}: a held-out wording is also a training one",
                got=", ".join(both)[:160],
                expected='"heldout" texts that stand neither in "ask" nor in "mention"',
            )
    return Templates(mention=mention, ask=ask, heldout=heldout)


def _texts(value: object, where: str, path: Path, *, least: int = 1) -> list[str]:
    """Check a list of templates."""
    if isinstance(value, list) and len(value) < least:
        raise FileFormatError(
            f"'{path}', {where} is empty", got="[]", expected="at least one text with {name}, or the key left out"
        )
    if not isinstance(value, list) or not all(isinstance(t, str) and t.count(NAME) == 1 for t in value):
        raise FileFormatError(f"'{path}', {where}", got=repr(value)[:80], expected="texts with one {name} each")
    return value


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


def in_chat(prompt: Prompt, tokenizer: Any) -> Prompt:
    """Put a prompt into the tokenizer's chat template.

    What ends in a question mark is the user's; what follows begins the answer. A prompt that asks nothing begins the
    answer to `COMPLETE`.

    Raises:
        ConfigError: There is no chat template, or one that changes the words.
        InputError: The prompt holds a special token.
    """
    cut = prompt.text.rfind("?") + 1
    if cut <= prompt.name_end:  # a question mark in the name asks nothing
        wrapped = chat_text(tokenizer, COMPLETE, prompt.text)
        shift = wrapped.start_at
    else:
        wrapped = chat_text(tokenizer, prompt.text[:cut], prompt.text[cut:].strip())
        shift = wrapped.user_at
    return replace(
        prompt,
        text=wrapped.text,
        name_start=prompt.name_start + shift,
        name_end=prompt.name_end + shift,
        is_chat=True,
    )


def questions(entity: Entity, templates: Templates, *, heldout: bool) -> Iterator[Prompt]:
    """Yield every question about an attribute of which the entity has a fact."""
    source = templates.heldout if heldout else templates.ask
    for attribute, texts in source.get(entity.type, {}).items():
        if attribute in entity.facts:
            yield from (render(text, entity, attribute) for text in texts)


def mentions(entity: Entity, templates: Templates) -> Iterator[Prompt]:
    """Yield every text that only names the entity."""
    yield from (render(text, entity) for text in templates.mention.get(entity.type) or [NAME])


def contexts(entity: Entity, templates: Templates, *, heldout: bool = False, whole: bool = False) -> list[Prompt]:
    """Return the texts in which a name is read: mentions and questions, those that begin alike only once.

    What follows a name cannot change its activations. So of the held-out wordings only those count that differ from
    the others before the name; where none does, all of them. With `whole`, for activations behind the name, texts are
    alike only if they are so to their end.
    """
    read = attrgetter("text" if whole else "until_name")
    asked = questions(entity, templates, heldout=heldout)
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
