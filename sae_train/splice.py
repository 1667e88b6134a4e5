"""What an SAE's reconstruction costs the language model: next-token loss with the SAE in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.lm.generate import pad_right, token_losses
from sae_train.lm.hooks import replaced
from sae_train.lm.models import LanguageModel
from sae_train.lm.windows import TokenPlan
from sae_train.metrics import ce_recovered
from sae_train.saes.base import Sae


@dataclass(frozen=True)
class SplicedLoss:
    """Next-token cross-entropy (nats) of the model: as it is, with the SAE in it, with zeros in its place.

    Special tokens (the first token, where there is none) keep their own activations in all three.
    """

    ce_clean: float
    ce_sae: float
    ce_zero: float
    ce_recovered: float


def spliced_loss(lm: LanguageModel, sae: Sae, hook_point: str, plan: TokenPlan, *, batch_size: int = 32) -> SplicedLoss:
    """Return what the SAE's reconstruction costs the model on the windows of a plan."""

    def spliced(acts: Tensor) -> Tensor:
        return sae(acts.flatten(0, 1).float()).view_as(acts).to(acts.dtype)

    clean = _mean_loss(lm, plan, batch_size, hook_point, None, plan.n_prefix)
    with_sae = _mean_loss(lm, plan, batch_size, hook_point, spliced, plan.n_prefix)
    with_zero = _mean_loss(lm, plan, batch_size, hook_point, torch.zeros_like, plan.n_prefix)
    recovered = ce_recovered(ce_clean=clean, ce_sae=with_sae, ce_zero=with_zero)
    return SplicedLoss(ce_clean=clean, ce_sae=with_sae, ce_zero=with_zero, ce_recovered=recovered)


@torch.no_grad()
def _mean_loss(
    lm: LanguageModel,
    plan: TokenPlan,
    batch_size: int,
    hook_point: str,
    edit: Callable[[Tensor], Tensor] | None,
    n_prefix: int,
) -> float:
    """Return the mean loss with `edit` applied behind the prefix at a hook point."""

    def behind_prefix(acts: Tensor) -> Tensor:
        return acts if edit is None else torch.cat([acts[:, :n_prefix], edit(acts[:, n_prefix:])], dim=1)

    total = count = 0.0
    for first in range(0, plan.n_windows, batch_size):
        parts = [plan.window(w) for w in range(first, min(first + batch_size, plan.n_windows))]
        ids, mask = pad_right([plan.tokens[p].tolist() for p in parts], device=lm.device)
        with replaced(lm.model, hook_point, behind_prefix):
            losses, counts = token_losses(lm, ids, mask)
        total += float((losses * counts).sum())
        count += float(counts.sum())
    return total / count
