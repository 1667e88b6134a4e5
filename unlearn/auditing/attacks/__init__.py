"""Attacks of an audit: attempts to bring the knowledge back. One file each, one registry.

Each takes the audit's context and returns an `AttackResult` (`common.result`): recall under the worst of its settings,
beside recall of never-known entities under the same attack, and of the original model. None where nothing can be tried.
"""

from __future__ import annotations

from collections.abc import Callable

from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.attacks.finetune import attack_finetune
from unlearn.auditing.attacks.prompts import attack_prompts
from unlearn.auditing.attacks.prune import attack_prune
from unlearn.auditing.attacks.quantize import attack_quantize
from unlearn.auditing.attacks.relearn import attack_relearn
from unlearn.auditing.attacks.same_form import attack_same_form
from unlearn.auditing.attacks.sampling import attack_sampling
from unlearn.auditing.attacks.steer_back import attack_steer_back
from unlearn.auditing.context import AuditContext

ATTACKS: dict[str, Callable[[AuditContext], AttackResult | None]] = {
    "prompts": attack_prompts,
    "sampling": attack_sampling,
    "steer-back": attack_steer_back,
    "quantize": attack_quantize,
    "prune": attack_prune,
    "finetune": attack_finetune,
    "relearn": attack_relearn,
    "same-form": attack_same_form,
}
