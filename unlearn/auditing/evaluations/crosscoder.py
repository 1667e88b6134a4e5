"""Crosscoder: what the removal changed, as latents of a dictionary that reads both models at once.

A row joins the activations of both models at one token. A latent belongs to the model before, to the one after, or to
both, by its decoder norms (`sae_train/saes/paired/crosscoder.py`). Shown, not judged: a dictionary has the latents that
its training text asked for, and one trained on text without the targets has none of theirs.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_train.quality.metrics import VarianceSums
from sae_train.saes.base import Sae
from sae_train.saes.paired.crosscoder import SideComparison, side_comparison
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext
from unlearn.auditing.evaluations.sae_fit import text_rows
from unlearn.auditing.joint_figures import CrosscoderFigures, CrosscoderLatent

MOST = 12  # latents in the list
GROUPS = {"targets": "forget", "kept": "kept", "unknown": "some_unknown"}


def evaluate_crosscoder(context: AuditContext) -> Findings | None:
    """Return which latents fire at the targets, at kept and at never-known names, and whose they are."""
    found = tuple(_read(context, sae) for sae in context.crosscoders)
    return Findings(crosscoders=found) if found else None


@torch.no_grad()
def _read(context: AuditContext, sae: Sae) -> CrosscoderFigures:
    """Read one crosscoder at names and on general text."""
    sums, fires = VarianceSums(sum(sae.sides)), {}
    for where, group in GROUPS.items():
        fires[where] = (sae.encode(_names(context, sae.hook_point, group).to(sae.W_dec.device)) != 0).cpu().numpy()
    on_text = []
    sides = (text_rows(context, lm, sae.hook_point) for lm in (context.before, context.after))
    for both in zip(*sides, strict=True):
        rows = torch.cat(both, dim=1)
        latents = sae.encode(rows)
        sums.update(rows, sae.decode(latents))
        on_text.append((latents != 0).cpu().numpy())
    fires["text"] = np.concatenate(on_text)
    rates = {where: on.mean(axis=0) if len(on) else np.full(sae.d_sae, np.nan) for where, on in fires.items()}
    ever = np.concatenate(list(fires.values())).mean(axis=0)
    whose = side_comparison(sae, ever)
    kinds = whose.kinds()
    return CrosscoderFigures(
        sae=sae.name,
        hook_point=sae.hook_point,
        fvu=sums.fvu(),
        latents_by_kind={kind: int(of_kind.sum()) for kind, of_kind in kinds.items()},
        firings_by_kind={where: _shares(on, kinds) for where, on in fires.items() if on.any()},
        latents=tuple(_latent(int(n), whose, rates) for n in _of_targets(rates)),
    )


def _names(context: AuditContext, hook_point: str, group: str) -> Float[Tensor, "n_contexts d_row"]:
    """Return both models' activations at the last name token, side by side."""
    return torch.cat([context.names_of(group, when).acts[hook_point] for when in ("before", "after")], dim=1)


def _shares(on: Bool[np.ndarray, "n d_sae"], kinds: dict[str, Bool[np.ndarray, " d_sae"]]) -> dict[str, float]:
    """Return what share of all firings each kind of latents has."""
    return {kind: float(on[:, of_kind].sum() / on.sum()) for kind, of_kind in kinds.items()}


def _of_targets(rates: dict[str, Float[np.ndarray, " d_sae"]]) -> Int[np.ndarray, " n"]:
    """Return the latents that fire more often at targets than at kept names; with no kept names, than never."""
    more = rates["targets"] - np.nan_to_num(rates["kept"])
    order = np.argsort(-more, kind="stable")[:MOST]
    return order[more[order] > 0]


def _latent(n: int, sides: SideComparison, rates: dict[str, Float[np.ndarray, " d_sae"]]) -> CrosscoderLatent:
    """Return one latent of the list."""
    known = sides.latent(n)
    return CrosscoderLatent(
        latent=n,
        kind=known["kind"],
        relative_norm=known["relative_norm"],
        cosine=known["cosine"],
        **{f"rate_{where}": float(rates[where][n]) for where in GROUPS},
    )
