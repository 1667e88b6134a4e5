"""What a weight edit leaves alone: general text, retained and unknown entities, those that share a target's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxtyping import Bool, Int
from torch import Tensor

from features.entities.entities import Entity
from features.entities.name_tokens import Encoded, encode
from features.entities.prompts import Prompt, contexts, questions, render
from features.entities.templates import NAME, Templates
from sae_train.text.words import normalize
from unlearn.problem.data import UnlearnSets
from unlearn.problem.problem import Problem
from unlearn.settings.redirection import KeptSettings

ANY_TYPE = (  # contexts beside those of the templates; keys differ by what stands in front of a name
    "{name}",
    "Yesterday I read about {name}",
    "In the news today: {name}",
    "Q: What do you know about {name}",
    "My friend told me about {name}",
    "The question is about {name}",
    "A picture of {name}",
)


def kept_sequences(problem: Problem, settings: KeptSettings) -> Iterator[tuple[float, list[Encoded]]]:
    """Yield (weight, token sequences) of each group that counts; of a sequence its tokens from `name_from` on do."""
    sets, most = problem.sets, settings.max_entities
    text = [Encoded(ids, name_at=len(ids) - 1, name_from=0) for ids in problem.text[: settings.text_windows]]
    if text:
        yield 1.0, text
    entities = [*_some(sets.retain, most), *_some(sets.unknown, most // 2)]
    # Entities that share an answer with a target are hurt first: with these and more contexts neighbours lost
    # 0.0 points instead of 4.8 on SmolLM2 (docs/results/log_redirection.md, "what led to the closed form").
    near = _some(sharing_answers(sets), most // 2)
    for weight, who in ((settings.entity_weight, entities), (settings.near_weight, near)):
        if weight > 0 and who:
            yield weight, _prompts_of(problem, who)


def counted(sequences: Sequence[Encoded], mask: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Return which tokens of some sequences, padded on the right, count: those from the name on."""
    counts = mask.bool().clone()
    for row, sequence in enumerate(sequences):
        counts[row, : sequence.name_from] = False
    return counts


def _prompts_of(problem: Problem, entities: Sequence[Entity]) -> list[Encoded]:
    """Return the entities' names in every context, and two whole questions about each for what follows a name."""
    templates = problem.templates
    asked = [p for e in entities for p in list(questions(e, templates, heldout=False))[:2]]
    return encode(problem.lm, [*(p for e in entities for p in name_contexts(e, templates)), *asked])


def name_contexts(entity: Entity, templates: Templates) -> list[Prompt]:
    """Return texts that end with the name: those of the templates and some that fit any type, each beginning once."""
    texts = [p.template for p in contexts(entity, templates)]
    front = dict.fromkeys(t[: t.index(NAME)] + NAME for t in [*texts, *ANY_TYPE])
    return [render(text, entity) for text in front]


def _some(entities: Sequence[Entity], most: int) -> list[Entity]:
    """Return at most `most` entities, evenly spaced in the list."""
    return list(entities[:: max(1, -(-len(entities) // max(1, most)))])


def sharing_answers(sets: UnlearnSets) -> list[Entity]:
    """Return the retained entities that share an answer with a target of their type."""
    shared = {(t.type, a, normalize(v)) for t in sets.forget for a, values in t.facts.items() for v in values}
    return [e for e in sets.retain if any((e.type, a, normalize(v)) in shared for a, vs in e.facts.items() for v in vs)]
