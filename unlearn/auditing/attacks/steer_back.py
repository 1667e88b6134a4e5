"""Steer-back: restore the name's activations, or push them toward known. Reveals models that only hid the key.

Settings, at every token of the name: the original model's activations in the place of the model's own, block by block;
the difference of the means of known and unknown entities (original model, last name token) added, block by block; where
latents were mined, those that stand for "known" added and those for "unknown" taken away at their hook point, by their
mean values. The last name token alone would be no attack: a question reads the other tokens of the name as well.
The control gets the same: its own original activations, the same directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from features.causal.patched_questions import NameQuestions, read_rows, verdicts
from features.entities.entities import Entity
from features.entities.prompts import Prompt
from unlearn.auditing.attack_results import AttackResult, AttackSetting
from unlearn.auditing.attacks.common import asked, attacked, by_entity, interval, recall_before, result
from unlearn.auditing.context import AuditContext

Place = Float[Tensor, "n_places d_in"]
Push = Callable[[Place, Place], Place]
"""(the model's own activations, the original model's) -> what takes their place."""


def attack_steer_back(context: AuditContext) -> AttackResult:
    """Return recall under every push, and the recall without any."""
    targets, control = attacked(context)
    pushes, asked_about = _pushes(context), _questions(context, [*targets, *control])
    points = list(dict.fromkeys(point for _, point, _ in pushes))
    own, original = (read_rows(lm, asked_about, points) for lm in (context.after, context.before))
    found: dict[str, AttackSetting] = {}
    for point in points:  # the questions under all pushes at one hook point are answered side by side
        here = {name: push for name, at, push in pushes if at == point}
        rows = [push(*pair) for push in here.values() for pair in zip(own[point], original[point], strict=True)]
        said = verdicts(context.after, asked_about.repeated(len(here)), (point, rows))
        n = len(asked_about.prompts)
        for index, name in enumerate(here):
            found[name] = _setting(context, name, asked_about.prompts, said[index * n : (index + 1) * n])
    settings = [found[name] for name, _, _ in pushes]
    plain = [a for found in context.answers_of("forget", "after").values() for a in found]
    return replace(result(settings), without=sum(a.verdict == "right" for a in plain) / max(1, len(plain)))


def _questions(context: AuditContext, entities: Sequence[Entity]) -> NameQuestions:
    """Return the questions that attacks ask about some entities, and every token of the names in them."""
    prompts, index = asked(context, entities), {e.key: i for i, e in enumerate(entities)}
    of = np.array([index[p.entity] for p in prompts], dtype=np.int64)
    return NameQuestions.of(context.after, entities, prompts, of, "all")


def _pushes(context: AuditContext) -> list[tuple[str, str, Push]]:
    """Return (name, hook point, push) of every setting."""
    found: list[tuple[str, str, Push]] = []
    known, unknown = context.names_of("probe_known", "before"), context.names_of("probe_unknown", "before")
    for block in context.blocks:
        found.append((f"original activation at {block}", block, lambda own, original: original))
    for block in context.blocks:
        gap = known.acts[block].mean(0) - unknown.acts[block].mean(0)
        found.append((f"known minus unknown at {block}", block, lambda own, original, gap=gap: own + gap.to(own)))
    points = context.analysis.hook_points if context.analysis is not None else []
    for point in points:
        ups, downs = point.selected["known"], point.selected["unknown"]
        if ups or downs:
            delta = point.mean_active[0, ups] @ point.W_dec[ups] - point.mean_active[1, downs] @ point.W_dec[downs]
            gap = torch.as_tensor(delta, dtype=torch.float32)
            name = f"{len(ups)} known latents up, {len(downs)} unknown ones down at {point.hook_point}"
            found.append((name, point.hook_point, lambda own, original, gap=gap: own + gap.to(own)))
    return found


def _setting(context: AuditContext, name: str, prompts: Sequence[Prompt], said: Sequence[str]) -> AttackSetting:
    """Return the recalls under one push, targets first among the questions."""
    targets = {e.key for e in attacked(context)[0]}
    n_targets = sum(p.entity in targets for p in prompts)
    target, control = (
        interval(by_entity(prompts[part], [v == "right" for v in said[part]]), context)
        for part in (slice(n_targets), slice(n_targets, None))
    )
    return AttackSetting(name, target, control, recall_before(context))
