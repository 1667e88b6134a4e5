"""Separation scores: how much more often a latent fires at the names of one class of entities than of the other.

Entities are the unit. An entity's firing share is the share of its contexts in which the latent is above zero;
frequency f = mean share over entities; separation s_known = f_known - f_unknown, s_unknown = -s_known.
MaxMin: the minimum of the separation over entity types (Ferrando et al., ICLR 2025, sec. 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from features.hypothesis_tests import fisher_p, rank_test
from sae_train.saes.base import Sae


@dataclass(frozen=True)
class EntityLatents:
    """Latents at names, one row per entity.

    Attributes:
        fire_share: Share of the entity's contexts in which each latent fires, (n_entities, d_sae).
        value: Mean latent over its contexts, (n_entities, d_sae).
        pre_act: Mean pre-activation over its contexts, (n_entities, d_sae).
    """

    fire_share: Float[np.ndarray, "n_entities d_sae"]
    value: Float[np.ndarray, "n_entities d_sae"]
    pre_act: Float[np.ndarray, "n_entities d_sae"]


def mean_by_group(rows: Tensor, group: np.ndarray, n_groups: int) -> Tensor:
    """Return the mean of the rows of each group, (n_groups, …); every group has a row."""
    index = torch.from_numpy(group)
    total = torch.zeros(n_groups, *rows.shape[1:], dtype=rows.dtype).index_add_(0, index, rows)
    counts = torch.bincount(index, minlength=n_groups).to(rows.dtype)
    return total / counts.view(-1, *[1] * (rows.dim() - 1))


@torch.no_grad()
def entity_latents(
    sae: Sae, acts: Float[Tensor, "n_contexts d_in"], entity: np.ndarray, n_entities: int
) -> EntityLatents:
    """Encode the activations at names and average over each entity's contexts."""
    pre_acts = sae.pre_acts(acts.to(sae.W_dec.device)).cpu()
    latents = sae.activate(pre_acts)
    fires = mean_by_group((latents > 0).float(), entity, n_entities)
    return EntityLatents(
        fire_share=fires.numpy(),
        value=mean_by_group(latents, entity, n_entities).numpy(),
        pre_act=mean_by_group(pre_acts, entity, n_entities).numpy(),
    )


@dataclass(frozen=True)
class Separation:
    """Scores of all latents on one set of entities.

    Attributes:
        freq: Frequency by label (known, unknown) and type, (2, n_types, d_sae); NaN where a cell is empty.
        score: s_known over all types, (d_sae,).
        low, high: 95 % Welch interval of `score`, entities as the unit.
        maxmin_known: Smallest s_known over the types that have both labels.
        maxmin_unknown: Smallest s_unknown over those types.
        auroc: P(mean latent of a known entity above that of an unknown one).
        p_value: The larger of the exact 2x2 test and the rank test: a latent has to pass both.
    """

    freq: Float[np.ndarray, "2 n_types d_sae"]
    score: Float[np.ndarray, " d_sae"]
    low: Float[np.ndarray, " d_sae"]
    high: Float[np.ndarray, " d_sae"]
    maxmin_known: Float[np.ndarray, " d_sae"]
    maxmin_unknown: Float[np.ndarray, " d_sae"]
    auroc: Float[np.ndarray, " d_sae"]
    p_value: Float[np.ndarray, " d_sae"]


def separation(latents: EntityLatents, is_known: np.ndarray, kind: np.ndarray, n_types: int) -> Separation:
    """Score every latent on the entities given.

    Args:
        latents: One row per entity.
        is_known: Known or unknown, (n_entities,) bool.
        kind: Index of each entity's type, (n_entities,).
        n_types: Number of types.
    """
    share = latents.fire_share.astype(np.float64)
    freq = np.full((2, n_types, share.shape[1]), np.nan)
    for side, wanted in enumerate((True, False)):
        for t in range(n_types):
            rows = (is_known == wanted) & (kind == t)
            if rows.any():
                freq[side, t] = share[rows].mean(0)
    known, unknown = share[is_known], share[~is_known]
    score = known.mean(0) - unknown.mean(0)
    margin = _welch_margin(known, unknown)
    per_type = freq[0] - freq[1]
    both = np.isfinite(per_type).all(axis=1)
    per_type = per_type[both] if both.any() else score[None]
    value = latents.value.astype(np.float64)
    auroc, p_rank = rank_test(value[is_known], value[~is_known])
    return Separation(
        freq=freq,
        score=score,
        low=score - margin,
        high=score + margin,
        maxmin_known=per_type.min(0),
        maxmin_unknown=(-per_type).min(0),
        auroc=auroc,
        p_value=np.maximum(fisher_p(known >= 0.5, unknown >= 0.5), p_rank),
    )


def _welch_margin(known: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Return half the width of Welch's 95 % interval of a difference of means."""
    if min(len(known), len(unknown)) < 2:
        return np.full(known.shape[1], np.nan)
    va, vb = known.var(0, ddof=1) / len(known), unknown.var(0, ddof=1) / len(unknown)
    total = np.maximum(va + vb, 1e-300)
    df = total**2 / (va**2 / (len(known) - 1) + vb**2 / (len(unknown) - 1) + 1e-300)
    return stats.t.ppf(0.975, np.maximum(df, 1.0)) * np.sqrt(va + vb)
