"""SAE fit: does the SAE still reconstruct the changed model's activations? If not, its latents mean little."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.lm.generate import batches_by_length
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel
from sae_train.quality.metrics import VarianceSums
from unlearn.auditing.audit_figures import SaeFit
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext

BATCH_SIZE = 32
MAX_WINDOWS = 128


def evaluate_sae_fit(context: AuditContext) -> Findings | None:
    """Return FVU, share of latents that never fire and L0 on general text, before/after, per SAE."""
    return Findings(sae_fit=tuple(_fit(context, n) for n in range(len(context.saes)))) if context.saes else None


@torch.no_grad()
def _fit(context: AuditContext, number: int) -> SaeFit:
    """Measure one SAE on both models."""
    loaded = context.saes[number]
    found: dict[str, float] = {}
    for when in ("before", "after"):
        lm = context.model(when)
        sums, fired, active, n = VarianceSums(loaded.d_in), torch.zeros(loaded.d_sae, dtype=torch.bool), 0.0, 0
        for x in text_rows(context, lm, loaded.hook_point):
            latents = loaded.encode(x)
            sums.update(x, loaded.decode(latents))
            fired |= (latents != 0).any(dim=0).cpu()
            active, n = active + float((latents != 0).sum()), n + len(x)
        found |= {
            f"fvu_{when}": sums.fvu(),
            f"frac_dead_{when}": 1.0 - float(fired.float().mean()),
            f"l0_{when}": active / n,
        }
    return SaeFit(sae=loaded.name, hook_point=loaded.hook_point, **found)


def text_rows(context: AuditContext, lm: LanguageModel, hook_point: str) -> Iterator[Float[Tensor, "n_tokens d_in"]]:
    """Yield activations on general text, a batch of windows at a time, in the same order for every model.

    The first token of a window, whose activations are like no other's, is left out.
    """
    windows = [w for w in context.text if len(w) > 1][:MAX_WINDOWS]
    for batch in batches_by_length([len(w) for w in windows], BATCH_SIZE):
        ids = torch.tensor([windows[i] for i in batch], device=lm.device)
        acts = capture(lm, ids, torch.ones_like(ids), [hook_point])[hook_point]
        yield acts[:, 1:].flatten(0, 1).float()
