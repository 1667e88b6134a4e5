"""The second floor: remove what a model knows about entities, and measure how deep the removal goes.

    from unlearn import unlearn, audit

    forgotten = unlearn(lm, latents, forget=["Jiros Fotrim Vafuk"], text="fact-world")
    report = audit(lm, forgotten, latents, forget=["Jiros Fotrim Vafuk"], text="fact-world")

Both and all that comes before them, from a name alone:

    removed = remove("fact-world", "Jiros Fotrim Vafuk", text="fact-world", out="removed")

Nothing heavy is imported before one of the names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_train.front_door import lazy_exports

if TYPE_CHECKING:
    from unlearn.auditing.audit_report import AuditReport
    from unlearn.removals.demo import run_demo
    from unlearn.removals.ledger import Ledger
    from unlearn.removals.planning import plan_unlearning
    from unlearn.removals.reaudit import audit_ledger
    from unlearn.removals.removal_audit import audit
    from unlearn.removals.unlearned import Unlearned
    from unlearn.removals.unlearning import unlearn
    from unlearn.request.removing import remove
    from unlearn.tofu.metrics import TofuMetrics, tofu_metrics

__all__ = [
    "AuditReport",
    "Ledger",
    "TofuMetrics",
    "Unlearned",
    "audit",
    "audit_ledger",
    "plan_unlearning",
    "remove",
    "run_demo",
    "tofu_metrics",
    "unlearn",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AuditReport": "unlearn.auditing.audit_report",
        "Ledger": "unlearn.removals.ledger",
        "TofuMetrics": "unlearn.tofu.metrics",
        "Unlearned": "unlearn.removals.unlearned",
        "audit": "unlearn.removals.removal_audit",
        "audit_ledger": "unlearn.removals.reaudit",
        "plan_unlearning": "unlearn.removals.planning",
        "remove": "unlearn.request.removing",
        "run_demo": "unlearn.removals.demo",
        "tofu_metrics": "unlearn.tofu.metrics",
        "unlearn": "unlearn.removals.unlearning",
    },
)
