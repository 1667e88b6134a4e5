"""Steer-back: the original model's activations are put back at the last name token.

A model that only hid the key fails it. For every audited block the questions about the targets are asked again while
that block's activation at the name is the original one; the recall of the best block counts. Compared with the recall
without steering.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from features.knowledge import judge
from features.prompts import questions
from sae_train.lm.generate import batches_by_length
from sae_train.lm.hooks import capture, replaced
from unlearn.context import AuditContext
from unlearn.data import encode

ANSWER_TOKENS = 6
MAX_TARGETS = 20


def evaluate_steer_back(context: AuditContext) -> dict[str, Any]:
    """Return the recall with each block steered back, and the largest."""
    per_block = {name: _recall(context, name) for name in context.blocks}
    best = max(per_block, key=lambda name: per_block[name])
    plain = [a for found in context.answers_of("forget", "after").values() for a in found]
    return {
        "attacks": {
            "steer-back": {
                "recall_after": per_block[best],
                "block": best,
                "by_block": per_block,
                "compared_with": "recall without steering",
                "compared_value": sum(a.verdict == "right" for a in plain) / max(1, len(plain)),
            }
        }
    }


@torch.no_grad()
def _recall(context: AuditContext, name: str) -> float:
    """Ask about the targets with the original activation at the last name token of one block."""
    prompts = [p for e in context.forget[:MAX_TARGETS] for p in questions(e, context.templates, heldout=True)]
    facts = {e.key: e.facts for e in context.forget}
    encoded = encode(context.after, prompts)
    n_right = 0
    for batch in batches_by_length([len(e.ids) for e in encoded], 64):
        ids = torch.tensor([encoded[i].ids for i in batch], device=context.after.device)
        at = torch.tensor([encoded[i].name_at for i in batch], device=ids.device)
        texts = _answers(context, name, ids, at)
        for index, text in zip(batch, texts, strict=True):
            prompt = prompts[index]
            n_right += judge(text, facts[prompt.entity][prompt.attribute or ""]) == "right"
    return n_right / max(1, len(prompts))


def _answers(context: AuditContext, name: str, ids: Tensor, at: Tensor) -> list[str]:
    """Decode greedily without a cache, the edit applied at every step."""
    rows = torch.arange(len(ids), device=ids.device)
    original = capture(context.before, ids, torch.ones_like(ids), [name])[name][rows, at]

    def put_back(acts: Tensor) -> Tensor:
        changed = acts.clone()
        changed[rows, at] = original.to(acts.dtype)
        return changed

    tokens = ids
    with replaced(context.after.model, name, put_back):
        for _ in range(ANSWER_TOKENS):
            logits = context.after.model(input_ids=tokens, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(dim=1, keepdim=True)], dim=1)
    return context.after.tokenizer.batch_decode(tokens[:, ids.shape[1] :], skip_special_tokens=True)
