"""Utility: next-token loss on general text that names no target."""

from __future__ import annotations

from typing import Any

from sae_train.lm.generate import text_loss
from unlearn.context import AuditContext


def evaluate_utility(context: AuditContext) -> dict[str, Any]:
    """Return the loss (nats per token) before and after."""
    return {
        "utility": {
            "loss_before": text_loss(context.before, context.text),
            "loss_after": text_loss(context.after, context.text),
            "n_tokens": sum(len(w) - 1 for w in context.text),
            "text": context.text_name,
        }
    }
