"""Steer-back: the name's activation is put back, or pushed toward what is known. A model that only hid the key fails.

Settings, at the last name token: the original model's activation in the place of the model's own, block by block; the
difference of the means of known and unknown entities (original model) added, block by block; where latents were mined,
the latents that stand for "known" added and those for "unknown" taken away at their hook point, by their mean values.
The control gets the same: its own original activation, the same directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from features.entities import Entity
from features.knowledge import judge
from features.probe import Interval
from features.prompts import Prompt
from sae_train.lm.generate import batches_by_length
from sae_train.lm.hooks import capture, replaced
from unlearn.attacks.common import Setting, asked, attacked, by_entity, interval, recall_before, result
from unlearn.context import AuditContext
from unlearn.data import Encoded, encode

ANSWER_TOKENS = 6
BATCH_SIZE = 64
Push = Callable[[Float[Tensor, "n d_in"], Float[Tensor, "n d_in"]], Float[Tensor, "n d_in"]]
"""(the model's own activations, the original model's) -> what takes their place."""


def attack_steer_back(context: AuditContext) -> dict[str, Any]:
    """Return recall under every push, and the recall without any."""
    settings = []
    for name, hook_point, push in _pushes(context):
        target, control = (_recall(context, group, hook_point, push) for group in attacked(context))
        settings.append(Setting(name, target, control, recall_before(context)))
    plain = [a for found in context.answers_of("forget", "after").values() for a in found]
    return result(settings, without=sum(a.verdict == "right" for a in plain) / max(1, len(plain)))


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


def _recall(context: AuditContext, entities: Sequence[Entity], hook_point: str, push: Push) -> Interval:
    """Ask about some entities while their names are pushed."""
    prompts = asked(context, entities)
    texts = pushed_answers(context, prompts, hook_point, push)
    facts = {e.key: e.facts for e in entities}
    right = [judge(t, facts[p.entity][p.attribute or ""]) == "right" for p, t in zip(prompts, texts, strict=True)]
    return interval(by_entity(prompts, right), context)


@torch.no_grad()
def pushed_answers(context: AuditContext, prompts: Sequence[Prompt], hook_point: str, push: Push) -> list[str]:
    """Return greedy answers of the model after, the activation at each last name token replaced."""
    encoded = encode(context.after, prompts)
    texts = [""] * len(prompts)
    for batch in batches_by_length([len(e.ids) for e in encoded], BATCH_SIZE):
        answers = _answers(context, [encoded[i] for i in batch], hook_point, push)
        for index, text in zip(batch, answers, strict=True):
            texts[index] = text
    return texts


def _answers(context: AuditContext, encoded: Sequence[Encoded], hook_point: str, push: Push) -> list[str]:
    """Read the prompts under the push, then go on from their keys and values."""
    lm = context.after
    ids = torch.tensor([e.ids for e in encoded], device=lm.device)
    at = torch.tensor([e.name_at for e in encoded], device=ids.device)
    rows = torch.arange(len(ids), device=ids.device)
    original = capture(context.before, ids, torch.ones_like(ids), [hook_point])[hook_point][rows, at]

    def put(acts: Tensor) -> Tensor:
        changed = acts.clone()
        changed[rows, at] = push(acts[rows, at], original.to(acts.dtype))
        return changed

    with replaced(lm.model, hook_point, put):
        out = lm.model(input_ids=ids, use_cache=True)
    said = []
    for _ in range(ANSWER_TOKENS):
        said.append(out.logits[:, -1].argmax(dim=1, keepdim=True))
        out = lm.model(input_ids=said[-1], past_key_values=out.past_key_values, use_cache=True)
    return lm.tokenizer.batch_decode(torch.cat(said, dim=1), skip_special_tokens=True)
