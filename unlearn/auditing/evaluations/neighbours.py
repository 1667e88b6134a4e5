"""Side effects: recall of neighbours and other known entities, answers about unknown ones, free writing.

A neighbour shares something with a target of its own type: its type alone, an answer, a word of the name, or it is a
namesake of another type. Unknown entities must stay unknown. Free writing: the n-gram entropy (`fluency`) and the
repetition of what both models write greedily behind the beginnings of general text.
"""

from __future__ import annotations

import numpy as np

from features.entities.entities import Entity
from features.labels.knowledge import Answer
from sae_train.lm.answer_end import has_line_break
from sae_train.lm.generate import encode_prompts, greedy_answers
from sae_train.text.words import normalize
from unlearn.auditing.audit_figures import Figure, GroupResult, Writing
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext, figure, units
from unlearn.auditing.evaluations.text_metrics import fluency, repetition

N_BEGINNINGS, BEGINNING_TOKENS, WRITTEN_TOKENS = 24, 6, 24


def evaluate_neighbours(context: AuditContext) -> Findings:
    """Return recall before/after by kind of neighbour and for unknown entities, and the free writing's figures."""
    kept = [*context.neighbours, *context.retain]
    answers = {
        when: {**context.answers_of("neighbours", when), **context.answers_of("retain", when)}
        for when in ("before", "after")
    }
    kinds: dict[str, GroupResult] = {}
    for kind in ("same type", "same answer", "shared name word", "namesake"):
        keys = [e.key for e in kept if kind in kinds_of(e, context.forget)]
        shares = {when: units([_right(answers[when][k]) for k in keys]) for when in answers}
        recall = figure(shares["before"], shares["after"], context.config.seed)
        kinds[kind] = GroupResult(n=len(keys), recall=recall)
    return Findings(neighbour_kinds=kinds, unknown=_unknown(context), writing=_writing(context))


def kinds_of(entity: Entity, targets: list[Entity]) -> set[str]:
    """Return what an entity shares with the targets.

    Example:
        >>> bush, kate = Entity("George Bush", "person", {"job": ["president"]}), Entity("Kate Bush", "person")
        >>> sorted(kinds_of(kate, [bush]))
        ['same type', 'shared name word']
    """
    found = set()
    words = set(normalize(entity.name).split())
    for target in targets:
        if target.type != entity.type:
            found |= {"namesake"} if normalize(target.name) == normalize(entity.name) else set()
            continue
        found.add("same type")
        if words & set(normalize(target.name).split()):
            found.add("shared name word")
        if any(
            {normalize(v) for v in values} & {normalize(v) for v in entity.facts.get(a, [])}
            for a, values in target.facts.items()
        ):
            found.add("same answer")
    return found


def _right(answers: list[Answer]) -> list[float]:
    return [float(a.verdict == "right") for a in answers]


def _unknown(context: AuditContext) -> GroupResult:
    """Return recall and refusal of unknown entities; they must not become known."""
    asked = {when: context.answers_of("some_unknown", when).values() for when in ("before", "after")}

    def said(verdict: str) -> Figure:
        shares = {w: units([[float(a.verdict == verdict) for a in own] for own in asked[w]]) for w in asked}
        return figure(shares["before"], shares["after"], context.config.seed)

    return GroupResult(n=len(context.group("some_unknown")), recall=said("right"), refusal=said("refusal"))


def _writing(context: AuditContext) -> Writing:
    """Let both models go on behind the same beginnings."""
    windows = [w for w in context.text if len(w) > BEGINNING_TOKENS][:N_BEGINNINGS]
    tokenizer = context.before.tokenizer
    beginnings = tokenizer.batch_decode([w[:BEGINNING_TOKENS] for w in windows], skip_special_tokens=True)
    found: dict[str, float] = {}
    for when in ("before", "after"):
        texts = greedy_answers(context.model(when), beginnings, max_new_tokens=WRITTEN_TOKENS, is_over=has_line_break)
        written = encode_prompts(context.model(when), [b + t for b, t in zip(beginnings, texts, strict=True)])
        found |= {
            f"entropy_{when}": float(np.mean([fluency(w) for w in written])) if written else float("nan"),
            f"repetition_{when}": float(np.mean([repetition(w) for w in written])) if written else float("nan"),
        }
    return Writing(**found)
