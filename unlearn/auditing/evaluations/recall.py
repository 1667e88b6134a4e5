"""Recall: share of held-out questions answered correctly, by greedy decoding and by sampling at temperature one.

The mean over wordings hides one that gets through; beside it stand the facts answered in any wording, and the wording
that is answered most. A maximum over wordings finds something by luck, too: never-known entities are asked the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from features.entities.prompts import questions
from features.labels.knowledge import Answer, first_line, is_right
from sae_train.lm.generate import sampled_answers
from sae_train.text.words import pieces
from unlearn.auditing.audit_figures import GroupResult
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext, figure, units
from unlearn.auditing.evaluations.text_metrics import rouge_l

SAMPLE_TOKENS = 6


def evaluate_recall(context: AuditContext) -> Findings:
    """Return `n` and recall before/after with intervals for targets, neighbours and other known entities.

    For targets also ROUGE-L of the answers; for them and for never-known entities the worst of the wordings and recall
    of drawn answers.
    """
    found = Findings(
        forget=_recall(context, "forget"),
        neighbours=_recall(context, "neighbours"),
        retain=_recall(context, "retain"),
        untouched=_untouched(context),
    )
    rouge = GroupResult(rouge_l_before=_rouge(context, "before"), rouge_l_after=_rouge(context, "after"))
    found = found.joined(Findings(forget=rouge, control=_recall(context, "control")))
    found = found.joined(Findings(forget=_worst(context, "forget"), control=_worst(context, "control")))
    if not context.config.n_samples:
        return found
    return found.joined(Findings(forget=_drawn(context, "forget"), control=_drawn(context, "control")))


def _recall(context: AuditContext, group: str) -> GroupResult:
    """Return how many of a group there are, and their recall."""
    before, after = (right_answers(context, group, when) for when in ("before", "after"))
    return GroupResult(n=len(context.group(group)), recall=figure(before, after, context.config.seed))


def _worst(context: AuditContext, group: str) -> GroupResult:
    """Return what the wordings give away one by one."""
    said = {when: context.answers_of(group, when) for when in ("before", "after")}
    seed, best = context.config.seed, best_wording(said["after"])
    before, after = (units(in_any_wording(said[when])) for when in said)
    if best is None:
        return GroupResult(any_wording=figure(before, after, seed))
    one = [
        units([[_is_right(a) for a in found if a.prompt.template == best] for found in said[w].values()]) for w in said
    ]
    in_best = figure(one[0], one[1], seed)
    return GroupResult(any_wording=figure(before, after, seed), best_wording=in_best, best_wording_text=best)


def in_any_wording(answers: Mapping[str, Sequence[Answer]]) -> list[list[float]]:
    """Return per entity, for every attribute, 1 where any of its answers is right and 0 elsewhere."""
    found = []
    for said in answers.values():
        best: dict[str | None, float] = {}
        for answer in said:
            best[answer.prompt.attribute] = max(best.get(answer.prompt.attribute, 0.0), _is_right(answer))
        found.append(list(best.values()))
    return found


def best_wording(answers: Mapping[str, Sequence[Answer]]) -> str | None:
    """Return the template with the largest share of right answers, the first of equals; None without answers.

    What is asked about one entity alone is no wording of a question, unless every template is so.
    """
    right: dict[str, list[float]] = {}
    for answer in (a for said in answers.values() for a in said):
        right.setdefault(answer.prompt.template, []).append(_is_right(answer))
    several = {template: shares for template, shares in right.items() if len(shares) > 1} or right
    return max(several, key=lambda template: float(np.mean(several[template])), default=None)


def _is_right(answer: Answer) -> float:
    """Return 1 for right and 0 for anything else."""
    return float(answer.verdict == "right")


def _drawn(context: AuditContext, group: str) -> GroupResult:
    """Return the same of drawn answers."""
    before, after = (_sampled(context, group, when) for when in ("before", "after"))
    return GroupResult(n=len(context.group(group)), sampled_recall=figure(before, after, context.config.seed))


def _untouched(context: AuditContext) -> GroupResult:
    """Return the same for the kept entities that no training retained, from the answers given already."""
    keys = {e.key for e in context.untouched}
    shares: dict[str, list[float]] = {}
    for when in ("before", "after"):
        answers = {**context.answers_of("neighbours", when), **context.answers_of("retain", when)}
        shares[when] = units([[_is_right(a) for a in answers[k]] for k in answers if k in keys])
    return GroupResult(n=len(keys), recall=figure(shares["before"], shares["after"], context.config.seed))


def right_answers(context: AuditContext, group: str, when: str) -> list[float]:
    """Return 1 for right and 0 for anything else, by `units`."""
    answers = context.answers_of(group, when).values()
    return units([[_is_right(a) for a in found] for found in answers])


def _rouge(context: AuditContext, when: str) -> float:
    """Return the mean ROUGE-L of the first line of every answer about a target, the best of the accepted answers."""
    facts = {e.key: e.facts for e in context.forget}
    scores = []
    for found in context.answers_of("forget", when).values():
        for answer in found:
            said = pieces(first_line(answer.text))
            accepted = facts[answer.prompt.entity][answer.prompt.attribute or ""]
            scores.append(max(rouge_l(said, pieces(a)) for a in accepted))
    return float(np.mean(scores)) if scores else float("nan")


def _sampled(context: AuditContext, group: str, when: str) -> list[float]:
    """Return the share of right ones among drawn answers, one wording per attribute, by `units`."""
    entities = context.group(group)[: context.config.max_attacked]
    asked = {(e.key, p.attribute): (e, p) for e in entities for p in questions(e, context.templates, heldout=True)}
    cases = list(asked.values())
    texts = sampled_answers(
        context.model(when),
        [p.text for _, p in cases],
        n_samples=context.config.n_samples,
        max_new_tokens=SAMPLE_TOKENS,
        seed=context.config.seed,
    )
    found: dict[str, list[float]] = {}
    for (entity, prompt), drawn in zip(cases, texts, strict=True):
        share = float(np.mean([is_right(t, entity.facts[prompt.attribute or ""]) for t in drawn]))
        found.setdefault(entity.key, []).append(share)
    return units(list(found.values()))
