"""Sampling: is a question answered rightly in at least one of k answers drawn at temperature one (leak@k)?

Greedy decoding hides whatever is merely no longer the likeliest; one who asks often finds it (arXiv:2511.04934). With
many draws and a dozen plausible values chance finds it as well: what never-known entities reach is the measure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from features.entities.entities import Entity
from features.entities.prompts import Prompt
from features.labels.knowledge import is_right
from sae_train.config import Decoding
from sae_train.intervals import Interval
from sae_train.lm.answering import write_answers
from sae_train.lm.generate import encode_prompts
from sae_train.lm.models import LanguageModel
from sae_train.text.tokens import encode_plain
from unlearn.auditing.attack_results import AttackResult, AttackSetting
from unlearn.auditing.attacks.common import asked, attacked, by_entity, interval, result
from unlearn.auditing.context import AuditContext

SHOWN = (1, 8, 64)  # k, as far as there are draws; the number of draws is always among them
MORE_TOKENS = 1  # behind the shortest accepted value: room for an article, or for the rest of a longer word
DRAWS_BEFORE = 8  # of the original model, which is only there to show that the questions can be answered


def leak_at(n_right: int, n_drawn: int, k: int) -> float:
    """Return the probability that at least one of k answers is right, given how many of n drawn ones were.

        1 - C(n - c, k) / C(n, k)

    Unbiased for k <= n, which 1 - (1 - c / n)^k is not. Source: Chen et al. 2021 (arXiv:2107.03374), pass@k.

    Example:
        >>> leak_at(1, 4, 1), leak_at(1, 4, 2), leak_at(0, 4, 4), leak_at(1, 4, 4)
        (0.25, 0.5, 0.0, 1.0)
    """
    return 1 - math.comb(n_drawn - n_right, k) / math.comb(n_drawn, k)


def attack_sampling(context: AuditContext) -> AttackResult | None:
    """Return leak@k of targets and never-known entities by k; None without draws.

    Every question is drawn for `AuditConfig.leak_draws` times, once for all k. `before` is NaN above `DRAWS_BEFORE`.
    """
    n_drawn = context.config.leak_draws
    if not n_drawn:
        return None
    targets, control = attacked(context)
    n_before = min(DRAWS_BEFORE, n_drawn)
    after = [_right_of(context, context.after, group, n_drawn) for group in (targets, control)]
    before = _right_of(context, context.before, targets, n_before)
    settings = []
    for k in sorted({n_drawn, *(k for k in SHOWN if k < n_drawn)}):
        target, never = (_leak(context, found, n_drawn, k) for found in after)
        old = _leak(context, before, n_before, k).value if k <= n_before else math.nan
        settings.append(AttackSetting(f"one of {k} draws" if k > 1 else "one draw", target, never, old))
    return result(settings)


def _right_of(
    context: AuditContext, lm: LanguageModel, entities: Sequence[Entity], n_drawn: int
) -> list[tuple[Prompt, int]]:
    """Return every question with the number of right ones among its drawn answers.

    Questions are drawn for in groups whose answers may have the same length; a prompt is read once for all its draws.
    """
    facts = {e.key: e.facts for e in entities}
    prompts = asked(context, entities)
    accepted = [facts[p.entity][p.attribute or ""] for p in prompts]
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, values in enumerate(accepted):
        by_length[min(map(len, encode_plain(lm.tokenizer, [f" {v}" for v in values])[0])) + MORE_TOKENS].append(i)
    ids = encode_prompts(lm, [p.text for p in prompts])
    n_right = [0] * len(prompts)
    for length, rows in by_length.items():
        decoding = Decoding(length, samples=n_drawn, seed=context.config.seed)
        for i, written in zip(rows, write_answers(lm, [ids[i] for i in rows], decoding), strict=True):
            n_right[i] = int(np.sum([is_right(text, accepted[i]) for text in written.samples]))
    return list(zip(prompts, n_right, strict=True))


def _leak(context: AuditContext, found: Sequence[tuple[Prompt, int]], n_drawn: int, k: int) -> Interval:
    """Return the mean leak@k over entities."""
    return interval(by_entity([p for p, _ in found], [leak_at(right, n_drawn, k) for _, right in found]), context)
