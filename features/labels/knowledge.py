"""Decide what the model knows by its own answers: ask, keep every answer, apply a rule.

Matching is in `matching.py`, the rules in `rules.py`. Labels follow from the kept answers alone, so another rule can be
applied without asking again (`relabel`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from features.config import KnowledgeRule
from features.entities.entities import Entity
from features.entities.name_tokens import encode
from features.entities.prompts import Prompt, in_chat, mentions, questions
from features.entities.templates import Templates
from features.labels.agreement import Agreement
from features.labels.answer_log import AnswerLog
from features.labels.made_up import asked_of_all, made_up, with_own_facts
from features.labels.matching import Rivals, Verdict, is_right, judge
from features.labels.rules import RULES, AttributeRecord, label_of
from features.labels.self_consistent import relabel_by_agreement, with_agreement, with_given_facts
from sae_train.config import Decoding
from sae_train.lm.answer_end import first_line
from sae_train.lm.answering import Written, write_answers
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import Advance, no_advance
from sae_train.text.tokens import encode_plain

__all__ = ["KnowledgeRule", "ask", "ask_and_label", "first_line", "is_right", "judge", "label_of"]

ANSWER_TOKENS = 10
LONG_ANSWER_TOKENS = 96  # where an accepted answer, a whole sentence, does not fit into those
ASK_BLOCK = 1024  # questions asked between two reports of progress
GREEDY = Decoding(max_new_tokens=ANSWER_TOKENS)


@dataclass(frozen=True)
class Answer:
    """One question, what the model said, and what that is worth.

    Attributes:
        prompt: The question.
        text: The greedy answer, to the end of its first sentence or a little further.
        verdict: On the greedy answer.
        samples: Sampled answers, if any were asked for.
    """

    prompt: Prompt
    text: str
    verdict: Verdict
    samples: tuple[str, ...] = ()


def ask(
    lm: LanguageModel,
    entities: Sequence[Entity],
    templates: Templates,
    *,
    heldout: bool,
    decoding: Decoding = GREEDY,
    chat: bool = False,
    advance: Advance = no_advance,
) -> dict[str, list[Answer]]:
    """Ask every question about every entity.

    Args:
        lm: The language model.
        entities: The entities to ask about.
        templates: The questions.
        heldout: Ask the held-out wordings in the place of the others.
        decoding: Length of an answer (up to `LONG_ANSWER_TOKENS` where an accepted one is longer), number of samples,
            temperature, seed.
        chat: Put the questions into the tokenizer's chat template.
        advance: Called with the number of questions answered.

    Returns:
        Answers by entity key, in the order of the templates.
    """
    facts = {e.key: e.facts for e in entities}
    rivals = rivals_of(entities)
    prompts = [p for e in entities for p in questions(e, templates, heldout=heldout)]
    found: dict[str, list[Answer]] = {e.key: [] for e in entities}
    for start in range(0, len(prompts), ASK_BLOCK):
        block = prompts[start : start + ASK_BLOCK]
        asked = [in_chat(p, lm.tokenizer) for p in block] if chat else block
        written = _write(lm, asked, [facts[p.entity][p.attribute or ""] for p in block], decoding)
        for prompt, said in zip(asked, written, strict=True):
            attribute = prompt.attribute or ""
            accepted = facts[prompt.entity][attribute]
            verdict = judge(said.greedy, accepted, rivals[attribute].of(accepted))
            found[prompt.entity].append(Answer(prompt, said.greedy, verdict, said.samples))
        advance(len(block))
    return found


def _write(
    lm: LanguageModel, asked: Sequence[Prompt], accepted: Sequence[Sequence[str]], decoding: Decoding
) -> list[Written]:
    """Write the answers, those longer that have to be longer to be right; in the order of the questions."""
    ids = [read.ids for read in encode(lm, asked)]
    texts = list(dict.fromkeys(text for values in accepted for text in values))
    length = dict(zip(texts, map(len, encode_plain(lm.tokenizer, texts)[0] if texts else []), strict=True))
    is_long = [max((length[t] for t in values), default=0) > decoding.max_new_tokens for values in accepted]
    limits = {False: decoding, True: replace(decoding, max_new_tokens=LONG_ANSWER_TOKENS)}
    found: dict[int, Written] = {}
    for kind, how in limits.items():
        rows = [i for i, long in enumerate(is_long) if long == kind]
        found |= dict(zip(rows, write_answers(lm, [ids[i] for i in rows], how) if rows else [], strict=True))
    return [found[i] for i in range(len(asked))]


def rivals_of(entities: Sequence[Entity]) -> dict[str, Rivals]:
    """Return, by attribute, the values that may be taken for one another."""
    values: dict[str, list[str]] = {}
    for entity in entities:
        for attribute, accepted in entity.facts.items():
            values.setdefault(attribute, []).extend(accepted)
    return {attribute: Rivals(found) for attribute, found in values.items()}


def recall(answers: Mapping[str, list[Answer]]) -> float:
    """Return the share of right answers: mean over entities of each one's share."""
    shares = [sum(a.verdict == "right" for a in found) / len(found) for found in answers.values() if found]
    return sum(shares) / len(shares) if shares else float("nan")


def ask_and_label(
    lm: LanguageModel,
    entities: Sequence[Entity],
    templates: Templates,
    rule: KnowledgeRule,
    *,
    decoding: Decoding = GREEDY,
    chat: bool = False,
    log: AnswerLog | None = None,
    advance: Advance = no_advance,
) -> list[Entity]:
    """Return the entities with label and answers; an entity nothing can be asked of is `between`.

    Args:
        lm, entities, templates, decoding, chat, advance: As for `ask`.
        rule: When an entity counts as known.
        log: Where answers are kept on the way; what it holds is not asked again. Blocks of entities are asked and
            kept as a whole, so a run that was cut off goes on to the same file.
    """
    said: list[Entity] = []
    for block in _blocks(to_ask(entities, templates, rule, decoding.seed), templates):
        if log is not None and all(e.key in log.kept for e in block):
            answered = [log.kept[e.key] for e in block]
            advance(sum(len(texts) for e in answered for texts in e.answers.values()))
        else:
            found = ask(lm, block, templates, heldout=False, decoding=decoding, chat=chat, advance=advance)
            answered = [with_own_facts(e) for e in _with_answers(lm, block, templates, found)]
            if log is not None:
                log.add(answered)
        said += answered
    if not RULES[rule.name].needs_facts:
        own = {e.key for e in entities}
        said = with_agreement([e for e in said if e.key in own], [e for e in said if e.key not in own])
    return relabel(said, rule)


def to_ask(entities: Sequence[Entity], templates: Templates, rule: KnowledgeRule, seed: int) -> list[Entity]:
    """Return who is asked about for a rule; without facts made-up names first, and of everyone every attribute."""
    if RULES[rule.name].needs_facts:
        return list(entities)
    return asked_of_all([*made_up(entities, seed=seed), *entities], templates)


def _blocks(entities: Sequence[Entity], templates: Templates) -> Iterator[list[Entity]]:
    """Part the entities into blocks of about ASK_BLOCK questions; they depend on nothing else."""
    block: list[Entity] = []
    n_questions = 0
    for entity in entities:
        block.append(entity)
        n_questions += sum(1 for _ in questions(entity, templates, heldout=False))
        if n_questions >= ASK_BLOCK:
            yield block
            block, n_questions = [], 0
    if block:
        yield block


def _with_answers(
    lm: LanguageModel, entities: Sequence[Entity], templates: Templates, found: Mapping[str, list[Answer]]
) -> list[Entity]:
    """Put what was said, and the length of the name in tokens, to each entity."""
    named = [next(mentions(e, templates)) for e in entities]
    lengths = [len(read.name) for read in encode(lm, named)]
    answered = []
    for entity, name_tokens in zip(entities, lengths, strict=True):
        answers: dict[str, list[str]] = {}
        samples: dict[str, list[list[str]]] = {}
        for answer in found[entity.key]:
            attribute = answer.prompt.attribute or ""
            answers.setdefault(attribute, []).append(answer.text.strip())
            if answer.samples:
                samples.setdefault(attribute, []).append([s.strip() for s in answer.samples])
        answered.append(replace(entity, answers=answers, samples=samples, name_tokens=name_tokens, label=None))
    return answered


def records_of(
    entity: Entity, rivals: Mapping[str, Rivals], facts: Mapping[str, Sequence[str]] | None = None
) -> dict[str, AttributeRecord]:
    """Judge what is kept of one entity's answers, by its own facts or by those given."""
    records = {}
    for attribute, said in entity.answers.items():
        accepted = (entity.facts if facts is None else facts).get(attribute)
        if not accepted or not said:
            continue
        wrong = rivals[attribute].of(accepted)
        sampled = [s for texts in entity.samples.get(attribute, []) for s in texts]
        records[attribute] = AttributeRecord(
            greedy=tuple(judge(text, accepted, wrong) for text in said),
            sampled=tuple(judge(text, accepted, wrong) for text in sampled),
            agreement=_right_agreement(entity, attribute, accepted, wrong),
        )
    return records


def _right_agreement(
    entity: Entity, attribute: str, accepted: Sequence[str], rivals: Sequence[str]
) -> Agreement | None:
    """Return what is agreed on where it is one of the accepted answers."""
    found = (entity.agreed or {}).get(attribute)
    return None if found is None or not is_right(found["answer"], accepted, rivals) else Agreement(**found)


def relabel(entities: Sequence[Entity], rule: KnowledgeRule) -> list[Entity]:
    """Label entities by the answers they hold; no language model is asked."""
    if not RULES[rule.name].needs_facts:
        return relabel_by_agreement(entities, rule)
    entities = [with_given_facts(e) for e in entities]
    rivals = rivals_of(entities)
    return [replace(e, label=label_of(records_of(e, rivals), rule)) for e in entities]
