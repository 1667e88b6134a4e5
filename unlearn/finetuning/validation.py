"""Validation for early stopping, on wordings that neither training nor the audit uses.

Of every attribute with two or more training questions the last one is held apart. Recall: share of right greedy
answers. Rank-1: share of questions whose true answer is the likeliest per token among other known entities' answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from features.entities.entities import Entity
from features.entities.prompts import Prompt, questions
from features.entities.templates import Templates
from features.labels.knowledge import ask, recall
from sae_train.lm.generate import continuation_log_probs
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.text.tokens import encode_plain
from sae_train.text.words import normalize

N_CANDIDATES = 10
MAX_KEPT = 40  # known entities asked, to see what the removal costs


@dataclass(frozen=True)
class Standing:
    """Where a removal stands.

    Attributes:
        recall: Of the targets.
        rank_first: Share of questions about targets whose true answer is ranked first; chance is about 1 / 10.
        kept: Recall of other known entities.
    """

    recall: float
    rank_first: float
    kept: float


def hold_apart(templates: Templates) -> tuple[Templates, Templates]:
    """Part the training questions: all but the last of every attribute, and the last ones as `heldout`.

    An attribute with a single question keeps it for training and has none for validation.
    """
    ask_, held = {}, {}
    for kind, attributes in templates.ask.items():
        ask_[kind] = {a: (t[:-1] if len(t) > 1 else t) for a, t in attributes.items()}
        held[kind] = {a: (t[-1:] if len(t) > 1 else []) for a, t in attributes.items()}
    return replace(templates, ask=ask_), replace(templates, ask=ask_, heldout=held)


def standing(
    lm: LanguageModel, targets: Sequence[Entity], kept: Sequence[Entity], known: Sequence[Entity], templates: Templates
) -> Standing:
    """Ask the `heldout` wordings of `templates`.

    Args:
        lm: The model as it is.
        targets: What it is to forget.
        kept: Known entities; the first `MAX_KEPT` are asked.
        known: Known entities whose answers are the candidates.
        templates: The second of `hold_apart`.
    """
    return Standing(
        recall=recall(ask(lm, targets, templates, heldout=True)),
        rank_first=rank_first(lm, targets, known, templates),
        kept=recall(ask(lm, kept[:MAX_KEPT], templates, heldout=True)),
    )


def rank_first(lm: LanguageModel, targets: Sequence[Entity], known: Sequence[Entity], templates: Templates) -> float:
    """Return the share of held-out questions whose true answer is the likeliest per token among the candidates."""
    cases = [
        (p, _candidates(t, p.attribute or "", known)) for t in targets for p in questions(t, templates, heldout=True)
    ]
    cases = [(p, options) for p, options in cases if len(options) > 1]
    answers = [f" {o}" for _, options in cases for o in options]
    if not answers:
        return float("nan")
    prompts: list[Prompt] = [p for p, options in cases for _ in options]
    scores = np.array(continuation_log_probs(lm, [p.text for p in prompts], answers))
    scores /= [len(ids) for ids in encode_plain(lm.tokenizer, answers)[0]]
    starts = np.cumsum([0] + [len(options) for _, options in cases])
    firsts = [scores[a] >= scores[a:b].max() for a, b in zip(starts[:-1], starts[1:], strict=True)]
    return float(np.mean(firsts))


def _candidates(target: Entity, attribute: str, known: Sequence[Entity]) -> list[str]:
    """Return the true answer, first, and other entities' answers."""
    accepted = {normalize(v) for v in target.facts[attribute]}
    pool = {normalize(e.facts[attribute][0]): e.facts[attribute][0] for e in known if attribute in e.facts}
    others = [v for k, v in sorted(pool.items()) if k not in accepted]
    order = rng("validation.candidates", *target.key.encode()).permutation(len(others))[: N_CANDIDATES - 1]
    return [target.facts[attribute][0], *(others[i] for i in order)]
