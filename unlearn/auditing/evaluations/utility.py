"""Utility: next-token loss on general text without any target."""

from __future__ import annotations

from sae_train.lm.generate import text_loss
from unlearn.auditing.audit_figures import Utility
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext


def evaluate_utility(context: AuditContext) -> Findings:
    """Return the loss before and after."""
    return Findings(
        utility=Utility(
            loss_before=text_loss(context.before, context.text),
            loss_after=text_loss(context.after, context.text),
            n_tokens=sum(len(w) - 1 for w in context.text),
            text=context.text_name,
        )
    )
