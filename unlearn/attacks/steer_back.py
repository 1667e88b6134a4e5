"""Steer-back: the name's activations are put back, or pushed toward what is known. A model that only hid the key fails.

Settings, at every token of the name: the original model's activations in the place of the model's own, block by block;
the difference of the means of known and unknown entities (original model, last name token) added, block by block; where
latents were mined, those that stand for "known" added and those for "unknown" taken away at their hook point, by their
mean values. The last name token alone would be no attack: a question reads the other tokens of the name as well.
The control gets the same: its own original activations, the same directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from features.entities import Entity
from features.patched_questions import NameQuestions, name_places, read_rows, verdicts
from features.probe import Interval
from unlearn.attacks.common import Setting, asked, attacked, by_entity, interval, recall_before, result
from unlearn.context import AuditContext

Push = Callable[[Float[Tensor, "n d_in"], Float[Tensor, "n d_in"]], Float[Tensor, "n d_in"]]
"""(the model's own activations, the original model's) -> what takes their place."""


@dataclass(frozen=True)
class Group:
    """Questions about some entities, and what stands at the names.

    Attributes:
        asked: The questions.
        own, original: By hook point, per question (n_places, d_in): activations of the model, of the original one.
    """

    asked: NameQuestions
    own: dict[str, list[Tensor]]
    original: dict[str, list[Tensor]]


def attack_steer_back(context: AuditContext) -> dict[str, Any]:
    """Return recall under every push, and the recall without any."""
    pushes = _pushes(context)
    names = list(dict.fromkeys(hook_point for _, hook_point, _ in pushes))
    groups = [_group(context, entities, names) for entities in attacked(context)]
    settings = []
    for name, hook_point, push in pushes:
        target, control = (_recall(context, group, hook_point, push) for group in groups)
        settings.append(Setting(name, target, control, recall_before(context)))
    plain = [a for found in context.answers_of("forget", "after").values() for a in found]
    return result(settings, without=sum(a.verdict == "right" for a in plain) / max(1, len(plain)))


def _group(context: AuditContext, entities: Sequence[Entity], hook_points: Sequence[str]) -> Group:
    """Return the questions about some entities and what stands at their names, each model read once."""
    prompts, index = asked(context, entities), {e.key: i for i, e in enumerate(entities)}
    of = np.array([index[p.entity] for p in prompts], dtype=np.int64)
    about = NameQuestions(list(entities), prompts, of, name_places(context.after, prompts, "all"))
    own, original = (read_rows(lm, about, hook_points) for lm in (context.after, context.before))
    return Group(about, own, original)


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


def _recall(context: AuditContext, group: Group, hook_point: str, push: Push) -> Interval:
    """Ask about some entities while their names are pushed."""
    rows = [push(a, b) for a, b in zip(group.own[hook_point], group.original[hook_point], strict=True)]
    right = [v == "right" for v in verdicts(context.after, group.asked, (hook_point, rows))]
    return interval(by_entity(group.asked.prompts, right), context)
