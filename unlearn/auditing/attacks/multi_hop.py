"""Multi-hop: questions that need an answer which is not asked for, of two entities that share it.

"Another city with the same country as T is": one who knows the country of T names a city there. The options are names
of known entities that were kept, one with the answer of T and others with other answers, so that nothing about T is
said or shown. Names differ in how likely they are in themselves: each is scored by how much likelier T makes it,

    log p(name | question about T) - log p(name | the same question about "this city")

per token (Holtzman et al. 2021, arXiv:2104.08315). Of a dozen wordings the two best on 35 well-known cities were kept:
SmolLM2-135M answers 0.94 and 0.91 there, chosen and measured on the same cities, and 0.54 scored by the bare name
(chance 0.25), so a part of it is association. "Yes" or "no" to "do both have the same country" tells less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from features.entities.entities import Entity
from features.labels.knowledge import is_right
from sae_train.intervals import Interval
from sae_train.lm.candidates import option_scores
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from unlearn.auditing.attacks.common import fits, interval
from unlearn.auditing.context import AuditContext

N_OPTIONS = 4  # names among which such a question is answered: chance 0.25
MAX_SHARING = 4  # names with the answer that are tried, each among others of its own


class Hop(NamedTuple):
    """One question with its options.

    Attributes:
        entity: Key of the entity that it is about.
        text: The question.
        neutral: The same about no entity of the type in particular.
        names: The options, the right one first.
    """

    entity: str
    text: str
    neutral: str
    names: list[str]


def _another(kind: str, attribute: str, name: str) -> str:
    return f"Another {kind} with the same {attribute} as {name} is"


def _shared(kind: str, attribute: str, name: str) -> str:
    return f"The {attribute} of {name} is also the {attribute} of"


HOPS: dict[str, Callable[[str, str, str], str]] = {"another with the same": _another, "shared answer": _shared}


def hops(context: AuditContext, entities: Sequence[Entity], form: str) -> list[Hop]:
    """Return questions for every fact that some kept entities share and enough others do not."""
    crowd = [*context.neighbours, *context.retain]
    found = []
    for entity in entities:
        for attribute, accepted in entity.facts.items():
            if not context.templates.is_shared(entity.type, attribute):
                continue
            having = [e for e in crowd if e.type == entity.type and attribute in e.facts and e.key != entity.key]
            same = [e.name for e in having if is_right(e.facts[attribute][0], accepted)]
            other = [e.name for e in having if not any(is_right(v, accepted) for v in e.facts[attribute])]
            if not same or len(other) < N_OPTIONS - 1:
                continue
            generator = rng("attack.prompts.hops", context.config.seed, *f"{entity.key}|{attribute}".encode())
            texts = [HOPS[form](entity.type, attribute, name) for name in (entity.name, f"this {entity.type}")]
            for i in generator.permutation(len(same))[:MAX_SHARING]:
                drawn = generator.permutation(len(other))[: N_OPTIONS - 1]
                found.append(Hop(entity.key, texts[0], texts[1], [same[i], *(other[j] for j in drawn)]))
    return found


def frac_hops(context: AuditContext, lm: LanguageModel, entities: Sequence[Entity], *, form: str) -> Interval:
    """Return how often it is the right name that the entity makes likelier most; NaN where nothing can be asked."""
    asked = [h for h in hops(context, entities, form) if fits(lm, [f"{h.text} {name}" for name in h.names])]
    names = [h.names for h in asked]
    own, neutral = (option_scores(lm, texts, names) for texts in ([h.text for h in asked], [h.neutral for h in asked]))
    found: dict[str, list[float]] = {}
    for hop, about, without in zip(asked, own, neutral, strict=True):
        gains = [a - b for a, b in zip(about.per_token, without.per_token, strict=True)]
        found.setdefault(hop.entity, []).append(float(gains[0] >= max(gains)))
    return interval(list(found.values()), context)
