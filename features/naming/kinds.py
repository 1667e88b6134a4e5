"""Kinds of names that can be asked about without a file: their questions, and beginnings that call for another name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from features.entities.templates import NAME, Templates, load_templates
from sae_train.errors import ConfigError, EntityError, nearest_first
from sae_train.lm.candidates import option_scores
from sae_train.lm.models import LanguageModel
from sae_train.text_files import read_json

WORDINGS = Path(__file__).parent / "wordings.json"
SIMILAR = Path(__file__).parent / "similar.json"
MIN_MARGIN = 1.0  # nats by which one kind has to be likelier than the next one


@dataclass(frozen=True)
class Kinds:
    """Kinds, and how a model is asked about them.

    Attributes:
        templates: Questions and mentions; a kind is a type of them.
        similar: Per kind texts that end where another name of it follows; `{name}` in them is the name at hand.
    """

    templates: Templates
    similar: Mapping[str, Sequence[str]]

    @property
    def names(self) -> list[str]:
        """Return the kinds."""
        return [kind for kind in self.templates.ask if kind in self.similar]

    def checked(self, kind: str) -> str:
        """Return a kind that is one of these.

        Raises:
            ConfigError: It is not; the nearest ones are given.
        """
        if kind not in self.names:
            expected = nearest_first(kind, self.names)
            raise ConfigError(f"no kind '{kind}' of names", got=kind, field="kind", expected=expected)
        return kind

    def only(self, kind: str) -> Templates:
        """Return the templates of one kind."""
        found = self.templates
        languages = {name: {kind: kinds[kind]} for name, kinds in found.languages.items() if kind in kinds}
        return replace(
            found,
            mention={kind: found.mention[kind]} if kind in found.mention else {},
            ask={kind: found.ask[kind]},
            heldout={kind: found.heldout[kind]},
            languages=languages,
        )

    def beginnings(self, kind: str) -> list[str]:
        """Return what stands before a name of this kind in its mentions, and before none of another kind."""
        others = {b for other in self.templates.mention if other != kind for b in _before_name(self.templates, other)}
        return [b for b in _before_name(self.templates, kind) if b not in others]


def _before_name(templates: Templates, kind: str) -> list[str]:
    """Return the beginnings of a kind's mentions up to the name, each once, none empty."""
    found = [text[: text.index(NAME)].rstrip() for text in templates.mention.get(kind, ())]
    return list(dict.fromkeys(text for text in found if text))


def shipped_kinds() -> Kinds:
    """Return the kinds that the package ships.

    Example:
        >>> shipped_kinds().names
        ['person', 'place', 'organisation', 'work']
    """
    similar = read_json(SIMILAR)
    return Kinds(load_templates(WORDINGS), {kind: tuple(texts) for kind, texts in similar.items()})


def kinds_of(templates: Templates) -> Kinds:
    """Return the types of a template file as kinds: another name is called for by what stands before one in mentions.

    Raises:
        EntityError: No type has a mention with words before the name that are its own.
    """
    plain = Kinds(templates, {})
    found = {kind: plain.beginnings(kind) for kind in templates.mention}
    similar = {kind: texts for kind, texts in found.items() if texts}
    if not similar:
        raise EntityError(
            "no template calls for another name",
            got="mentions that begin with the name, or alike in every type",
            field="templates",
            expected='a mention with words before the name, as in "The city {name}"',
        )
    return Kinds(templates, similar)


def kind_scores(lm: LanguageModel, name: str, kinds: Kinds) -> dict[str, float]:
    """Return, by kind, how likely the name is where one of that kind is called for.

    score(kind) = mean over its beginnings b of log p(name | b), nats. Comparable between kinds of one name only.
    """
    found = {}
    for kind in kinds.names:
        starts = kinds.beginnings(kind)
        scores = option_scores(lm, starts, [[name]] * len(starts))
        found[kind] = sum(s.log_probs[0] for s in scores) / len(scores) if scores else float("-inf")
    return found


def choose_kind(lm: LanguageModel, name: str, kinds: Kinds) -> str:
    """Return the kind that the model takes a name for.

    Raises:
        ConfigError: The best two are nearer to one another than `MIN_MARGIN`: the user has to say which.
    """
    scores = kind_scores(lm, name, kinds)
    ranked = sorted(scores, key=lambda kind: (-scores[kind], kind))
    if len(ranked) > 1 and scores[ranked[0]] - scores[ranked[1]] < MIN_MARGIN:
        raise ConfigError(
            f"what kind of name is '{name}'?",
            got=", ".join(f"{kind} {scores[kind]:.1f}" for kind in ranked) + " nats by the model",
            field="kind",
            expected=", ".join(kinds.names),
            try_=f"`kind`={ranked[0]}",
        )
    return ranked[0]
