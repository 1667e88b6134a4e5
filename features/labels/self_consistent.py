"""The rule `self-consistent`: knowledge without an answer key. What a model says again and again is what it knows.

An attribute is known if most greedy answers and enough samples give the same answer, and made-up names get that answer
clearly less often (`Agreement`, thresholds in `KnowledgeRule`). Right or wrong is not asked: the agreed answer becomes
the entity's fact, and all that follows works with what the model says. Facts that the entity came with are kept beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from features.config import KnowledgeRule
from features.entities.entities import Entity
from features.labels.agreement import Agreement, SaidPhrases, agreement_of
from features.labels.matching import Rivals, is_right
from features.labels.rules import AttributeRecord, agrees, label_of
from sae_train.errors import ConfigError
from sae_train.rng import rng
from sae_train.text.words import normalize

_Said = tuple[SaidPhrases, SaidPhrases]
_Key = tuple[str, str]  # type and attribute


def with_agreement(entities: Sequence[Entity], made_up: Sequence[Entity]) -> list[Entity]:
    """Return answered entities with what is agreed on, beside the answers about made-up names."""
    nobody = _phrases_of(made_up)
    plain = [_agreed(e, nobody, {}) for e in entities]
    values: dict[str, list[str]] = {}
    for entity, agreed in zip(entities, plain, strict=True):
        for attribute, found in agreed.items():
            values.setdefault(attribute, []).append(found.answer)
        for attribute, accepted in _given(entity).items():
            values.setdefault(attribute, []).extend(accepted)
    rivals = {attribute: Rivals(found) for attribute, found in values.items()}
    return [
        replace(e, agreed={a: asdict(found) for a, found in _agreed(e, nobody, rivals, own).items()})
        for e, own in zip(entities, plain, strict=True)
    ]


def _phrases_of(made_up: Sequence[Entity]) -> dict[_Key, _Said]:
    """Count what is said of made-up names, by type and attribute."""
    found: dict[_Key, _Said] = {}
    for entity in made_up:
        for attribute, texts in entity.answers.items():
            greedy, sampled = found.setdefault((entity.type, attribute), (SaidPhrases(), SaidPhrases()))
            greedy.add(texts)
            sampled.add(_samples(entity, attribute))
    return found


def _agreed(
    entity: Entity,
    nobody: Mapping[_Key, _Said],
    rivals: Mapping[str, Rivals],
    before: Mapping[str, Agreement] | None = None,
) -> dict[str, Agreement]:
    """Return what is agreed on by attribute; `before` was found without rivals."""
    found = {}
    names = [normalize(name) for name in (entity.name, *entity.aliases)]
    for attribute, texts in entity.answers.items():
        greedy, sampled = nobody.get((entity.type, attribute), (SaidPhrases(), SaidPhrases()))
        other = rivals[attribute].of([before[attribute].answer]) if before and attribute in before else ()
        one = agreement_of(texts, _samples(entity, attribute), greedy, sampled, other, names)
        if one is not None:
            found[attribute] = one
    return found


def relabel_by_agreement(entities: Sequence[Entity], rule: KnowledgeRule) -> list[Entity]:
    """Label entities by what is agreed on, and make that their facts.

    Raises:
        ConfigError: An entity has answers, but nothing says what is said of made-up names.
    """
    for entity in entities:
        if entity.answers and entity.agreed is None:
            raise ConfigError(
                f"the rule '{rule.name}' reads what is said of made-up names",
                got=f"answers about {entity.name} alone",
                field="rule",
                expected="labels that were made by this rule",
                try_="label the entities again with `rule`=self-consistent",
            )
    records = {e.key: _records(e) for e in entities}
    known = {e.key: {a for a, r in records[e.key].items() if agrees(r, rule)} for e in entities}
    pools = _pools(entities, known)
    labelled = []
    for entity in entities:
        label, attributes = label_of(records[entity.key], rule), known[entity.key]
        facts = {a: _fact(entity, a, label, a in attributes, pools) for a in entity.answers}
        kept = {a: v for a, v in _given(entity).items() if a not in entity.answers}
        facts = {a: v for a, v in facts.items() if v} | kept
        labelled.append(replace(entity, label=label, facts=facts, given_facts=_given(entity)))
    return labelled


def with_given_facts(entity: Entity) -> Entity:
    """Return an entity with the facts that it came with, for rules that judge by them."""
    return entity if entity.given_facts is None else replace(entity, facts=entity.given_facts, given_facts=None)


def _given(entity: Entity) -> dict[str, list[str]]:
    """Return the facts that an entity came with."""
    return entity.facts if entity.given_facts is None else entity.given_facts


def _samples(entity: Entity, attribute: str) -> list[str]:
    """Return all sampled answers about an attribute."""
    return [text for drawn in entity.samples.get(attribute, []) for text in drawn]


def _records(entity: Entity) -> dict[str, AttributeRecord]:
    """Return what is agreed on of every attribute that was asked for; nothing where all answers refuse."""
    agreed = entity.agreed or {}
    return {a: AttributeRecord((), (), Agreement(**agreed[a]) if a in agreed else None) for a in entity.answers}


def _pools(entities: Sequence[Entity], known: Mapping[str, set[str]]) -> dict[_Key, list[str]]:
    """Return the known answers by type and attribute, each once."""
    found: dict[_Key, dict[str, str]] = {}
    for entity in entities:
        for attribute in sorted(known[entity.key]):
            answer = (entity.agreed or {})[attribute]["answer"]
            found.setdefault((entity.type, attribute), {}).setdefault(normalize(answer), answer)
    return {key: [values[k] for k in sorted(values)] for key, values in found.items()}


def _fact(entity: Entity, attribute: str, label: str, is_known: bool, pools: Mapping[_Key, Sequence[str]]) -> list[str]:
    """Return the fact of an attribute: what the model says where it knows, else what does not flatter a control.

    Of an attribute that is not known it is the fact given; without one, what is said most, or, of an unknown entity,
    the known answer of another one, drawn: all entities of a type have to be asked the same questions later on.
    """
    given, found = _given(entity).get(attribute, []), (entity.agreed or {}).get(attribute)
    if is_known and found is not None:
        same = given if is_right(found["answer"], given) else []
        return list({normalize(v): v for v in reversed([found["answer"], *same])}.values())[::-1]
    if given:
        return given
    if found is not None and label != "unknown":
        return [found["answer"]]
    said = "" if found is None else normalize(found["answer"])
    pool = [v for v in pools.get((entity.type, attribute), ()) if normalize(v) != said]
    if not pool:
        return [] if found is None else [found["answer"]]
    generator = rng("labels.other_facts", *f"{entity.key}|{attribute}".encode())
    return [pool[int(generator.integers(len(pool)))]]
