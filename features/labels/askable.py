"""Which entities the templates ask something about: facts and questions meet by the exact name of the attribute."""

from __future__ import annotations

from collections.abc import Sequence

from features.entities.entities import Entity
from features.entities.prompts import by_type, questions
from features.entities.templates import Templates
from sae_train.errors import EntityError
from sae_train.run.notes import note

SHOWN = 4  # names in a message


def check_askable(entities: Sequence[Entity], templates: Templates) -> None:
    """Refuse entities of which none can be asked anything, and note those of a type of which some cannot.

    Raises:
        EntityError: There is not one question: whatever is asked for, no entity has a fact called so.
    """
    silent = [e for e in entities if next(questions(e, templates, heldout=False), None) is None]
    if len(silent) == len(entities):
        raise EntityError(
            "no question can be asked about any entity",
            got="; ".join(_difference(kind, own, templates) for kind, own in by_type(entities).items()),
            field="templates",
            expected="facts that are called as the attributes of the templates are, in the same case",
        )
    for kind, own in by_type(silent).items():
        names = ", ".join(e.name for e in own[:SHOWN]) + (" …" if len(own) > SHOWN else "")
        note(
            f"nothing can be asked about {len(own)} of type '{kind}' ({names}), which will be `between`: "
            f"{_difference(kind, own, templates)}"
        )
    for kind, own in by_type(entities).items():
        facts = {a for e in own for a in e.facts}
        for attribute in templates.attributes(kind):
            alike = [f for f in sorted(facts) if f.casefold().strip() == attribute.casefold().strip()]
            if attribute not in facts and alike:
                note(f"'{attribute}' is asked of no {kind}: the facts are called '{alike[0]}'; names match exactly")


def _difference(kind: str, entities: Sequence[Entity], templates: Templates) -> str:
    """Return what a type is asked and what facts its entities have."""
    facts = dict.fromkeys(a for e in entities for a in e.facts)
    asked = [a for a in templates.attributes(kind) if templates.ask[kind][a]]
    return f"{kind} is asked for {', '.join(asked) or 'nothing'}, and has the facts {', '.join(facts) or 'none'}"
