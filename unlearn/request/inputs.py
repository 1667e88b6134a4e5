"""Inputs of a removal request, checked before any station: model, name and kind, wordings, text, configs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from features.config import KnowledgeRule
from features.entities.entities import Entity, entity_line, find_entity, load_entities
from features.entities.opening import open_entities, open_templates
from features.entities.templates import Templates
from features.labels.labels import choose_rule
from features.labels.rules import PARAPHRASES, RULES, SELF_CONSISTENT
from features.naming.kinds import Kinds, choose_kind, kinds_of, shipped_kinds
from sae_train.errors import ConfigError
from sae_train.lm.models import LanguageModel, as_lm, weights_hash
from sae_train.run.runs import text_hash
from sae_train.text.tokens import Document
from sae_train.text.worlds import find_world
from sae_train.text_files import lines_of, read_text
from unlearn.config import AuditConfig, UnlearnConfig, configure
from unlearn.problem.data import first_documents
from unlearn.removals.sources import documents_of
from unlearn.request.config import RemoveConfig

CHARS_PER_ROW = 8  # more than a token has
LEAST_CHARS = 2_000_000  # of general text that is read, where there is as much


@dataclass(frozen=True)
class Inputs:
    """What a request is made from.

    Attributes:
        lm: The model.
        target: Who is to be forgotten, with the facts given, if any.
        entities: Entities given; None where the model is to name others.
        others: Names given to be kept beside those that the model names.
        kinds: Kinds with their questions; of given entities without any way to ask for more.
        documents: General text, as much of it as is used.
        text_name: What the text is called.
        rule: When an entity is known.
        config: Sizes.
        unlearning: How it is removed.
        auditing: How it is audited.
    """

    lm: LanguageModel
    target: Entity
    entities: tuple[Entity, ...] | None
    others: tuple[str, ...]
    kinds: Kinds
    documents: tuple[Document, ...]
    text_name: str
    rule: KnowledgeRule
    config: RemoveConfig
    unlearning: UnlearnConfig
    auditing: AuditConfig

    @cached_property
    def templates(self) -> Templates:
        """Return the questions: of all types given, or of the target's kind alone."""
        return self.kinds.templates if self.entities is not None else self.kinds.only(self.target.type)

    @cached_property
    def model(self) -> dict[str, Any]:
        """Return what identifies the model, for the identity of every station."""
        return {"model": weights_hash(self.lm.model), "tokenizer": self.lm.tokenizer_hash}

    @cached_property
    def text_hash(self) -> str:
        """Return the hash of the general text that is used."""
        return text_hash(d.text for d in self.documents)

    @property
    def asking(self) -> dict[str, Any]:
        """Return what identifies how the model is asked."""
        return {
            **self.model,
            "templates": text_hash([json.dumps(asdict(self.templates), sort_keys=True)]),
            "rule": asdict(self.rule),
            "samples": self.samples,
            "seed": self.config.seed,
        }

    @property
    def samples(self) -> int:
        """Return the sampled answers per question; none where the rule reads none."""
        return self.config.samples if RULES[self.rule.name].samples else 0

    @property
    def retained_text(self) -> list[Document]:
        """Return the half of the text that the removal retains; all of it where there is one document."""
        return [*self.documents[::2]]

    @property
    def audited_text(self) -> list[Document]:
        """Return the other half, on which the audit measures the price; all of it where there is one document."""
        return [*(self.documents[1::2] or self.documents)]

    @property
    def identity(self) -> dict[str, Any]:
        """Return all that decides the result of the request."""
        return {
            **self.asking,
            "name": entity_line(self.target),
            "entities": None if self.entities is None else text_hash(map(entity_line, self.entities)),
            "others": list(self.others),
            "text": self.text_hash,
            "config": asdict(self.config),
            "unlearning": asdict(self.unlearning),
            "auditing": asdict(self.auditing),
        }


def gather(
    lm: LanguageModel | str | Path,
    name: str,
    *,
    text: str | Path | Iterable[str | Document] | None = None,
    entities: Iterable[Entity] | str | Path | None = None,
    entities_format: str = "auto",
    templates: Templates | str | Path | None = None,
    kind: str | None = None,
    others: str | Path | Sequence[str] | None = None,
    rule: str | KnowledgeRule | None = None,
    labelling: Mapping[str, Any] | None = None,
    config: RemoveConfig,
    unlearning: Mapping[str, Any] | None = None,
    auditing: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Inputs:
    """Check and read what a request is made from; the parameters are those of `remove`.

    Raises:
        ConfigError: There is no text, something excludes something else, or nobody says what kind of name it is.
        EntityError: The name is not among the entities given.
        InputError: A file cannot be used.
    """
    documents, text_name = _text(text, config)
    removal = configure(config.method, **{"seed": config.seed, **(unlearning or {})})
    audited = AuditConfig(**{"seed": config.seed, **(auditing or {})})
    audited = audited.quick() if config.quick else audited
    if entities is not None:
        _refuse_beside_entities(kind, others)
    opened = as_lm(lm, device=device)
    if entities is not None:
        found, asked = open_entities(entities, templates, format=entities_format)
        target, kinds = find_entity(found, name, field="name"), Kinds(asked, {})
    else:
        found = None
        kinds = _kinds(opened, templates)
        chosen = choose_kind(opened, name, kinds) if kind is None else kinds.checked(kind)
        target = Entity(name, chosen)
    return Inputs(
        lm=opened,
        target=target,
        entities=None if found is None else tuple(found),
        others=_others(others, target),
        kinds=kinds,
        documents=documents,
        text_name=text_name,
        rule=_rule(rule, labelling or {}, found),
        config=config,
        unlearning=removal,
        auditing=audited,
    )


def _text(text: str | Path | Iterable[str | Document] | None, config: RemoveConfig) -> tuple[tuple[Document, ...], str]:
    """Return the documents that are used, and what the text is called.

    Raises:
        ConfigError: There is none.
    """
    if text is None or text == "none":
        raise ConfigError(
            "a removal needs general text",
            got=text,
            field="text",
            expected="a file, a hub dataset id or fact-world: SAEs are trained on it, it is kept, and measured",
            try_="`text` with some of what the model was trained on, or with any text in its language, as wikitext",
        )
    chars = max(LEAST_CHARS, config.n_rows * CHARS_PER_ROW)
    found = tuple(first_documents(documents_of(text), chars))
    if not found:
        raise ConfigError("the general text is empty", got=str(text)[:80], field="text", expected="documents")
    return found, str(text) if isinstance(text, str | Path) else "documents"


def _refuse_beside_entities(kind: str | None, others: object) -> None:
    """Refuse what says who else there is, where entities say it."""
    for field, value in (("kind", kind), ("others", others)):
        if value is not None:
            raise ConfigError(
                "the entities given say who there is and of which type",
                got=value,
                field=field,
                expected=f"`entities`, or `{field}`",
            )


def _kinds(lm: LanguageModel, templates: Templates | str | Path | None) -> Kinds:
    """Return the kinds of the templates given, of the world that the model is, or those that the package ships."""
    if templates is not None:
        return kinds_of(open_templates(templates))
    is_world = find_world(lm.name) is not None
    return kinds_of(open_templates(lm.name)) if is_world else shipped_kinds()


def _others(others: str | Path | Sequence[str] | None, target: Entity) -> tuple[str, ...]:
    """Return the names given: a list, the lines of a text file, or those of the target's type in a file of entities."""
    if others is None:
        return ()
    if not isinstance(others, str | Path):
        names: Iterable[str] = others
    elif Path(others).suffix in (".txt", ""):
        names = lines_of(read_text(Path(others), field="others"))
    else:
        names = [e.name for e in load_entities(others, duplicates="first") if e.type == target.type]
    cleaned = (name.strip() for name in names)
    return tuple(dict.fromkeys(name for name in cleaned if name and name != target.name))


def _rule(
    rule: str | KnowledgeRule | None, fields: Mapping[str, Any], entities: Sequence[Entity] | None
) -> KnowledgeRule:
    """Return the rule: the one given; else answers are judged by facts where everybody has some."""
    has_facts = entities is not None and all(e.facts for e in entities)
    chosen = choose_rule(rule or (PARAPHRASES if has_facts else SELF_CONSISTENT), fields, has_samples=False)
    if entities is None and RULES[chosen.name].needs_facts:
        raise ConfigError(
            "a name alone has no facts to judge answers by",
            got=chosen.name,
            field="rule",
            expected=SELF_CONSISTENT,
            try_="`entities` with their facts",
        )
    return chosen
