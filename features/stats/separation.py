"""Separation scores: how much more often a latent fires at known than at unknown names, or the reverse.

Entities are the unit, the contexts of one are repeated measures of it. An entity's firing share is the share of its
contexts in which the latent is above zero; frequency f = mean share over entities; separation s_known = f_known -
f_unknown, s_unknown = -s_known. MaxMin: the minimum of the separation over entity types (Ferrando et al., ICLR 2025,
sec. 4). Latents are kept as sparse matrices: no array of contexts x latents is ever dense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse, stats
from scipy.sparse import csr_array
from torch import Tensor

from features.stats.hypothesis_tests import fisher_p, rank_test
from sae_train.quality.metrics import VarianceSums
from sae_train.saes.base import Sae

BLOCK_BYTES = 64 * 2**20  # of dense pre-activations at a time


@dataclass(frozen=True)
class NameLatents:
    """What one SAE reads at every name.

    Attributes:
        contexts: Latents, (n_contexts, d_sae), sparse.
        pre_act_mean, pre_act_std: Pre-activations over the entities of each group, each entity the mean of its
            contexts, (n_groups, d_sae).
        fvu: FVU of the SAE over the contexts.
    """

    contexts: csr_array
    pre_act_mean: Float[np.ndarray, "n_groups d_sae"]
    pre_act_std: Float[np.ndarray, "n_groups d_sae"]
    fvu: float


@dataclass(frozen=True)
class EntityLatents:
    """Latents at names, one row per entity.

    Attributes:
        frac_firing: Share of the entity's contexts in which each latent fires, (n_entities, d_sae), sparse.
        value: Mean latent over its contexts, (n_entities, d_sae), sparse.
    """

    frac_firing: csr_array
    value: csr_array

    def take(self, rows: np.ndarray) -> EntityLatents:
        """Return some of the entities, by mask or index."""
        return EntityLatents(self.frac_firing[rows], self.value[rows])


def group_matrix(group: Int[np.ndarray, " n"], n_groups: int, *, mean: bool = False) -> csr_array:
    """Return the matrix that adds (or averages) rows by group, (n_groups, n); rows of group -1 do not count.

    Example:
        >>> (group_matrix(np.array([1, 1, -1, 0]), 2, mean=True) @ np.array([2.0, 4.0, 9.0, 7.0])).tolist()
        [7.0, 3.0]
    """
    used = np.flatnonzero(group >= 0)
    weight = np.ones(len(used))
    if mean:
        weight /= np.bincount(group[used], minlength=n_groups)[group[used]]
    return csr_array((weight, (group[used], used)), shape=(n_groups, len(group)))


def sum_by_group(rows: csr_array, group: Int[np.ndarray, " n"], n_groups: int) -> Float[np.ndarray, "n_groups d"]:
    """Return the sums of the rows of each group, dense."""
    product: Any = group_matrix(group, n_groups) @ rows
    return product.toarray()


def _entity_blocks(entity: np.ndarray, step: int) -> Iterator[np.ndarray]:
    """Yield about `step` contexts at a time, all contexts of an entity together."""
    order = np.argsort(entity, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(entity[order])) + 1, len(order))
    start = 0
    while start < len(order):
        stop = int(ends[min(np.searchsorted(ends, start + step), len(ends) - 1)])
        yield order[start:stop]
        start = stop


@torch.no_grad()
def name_latents(
    sae: Sae,
    acts: Float[Tensor, "n_contexts d_in"],
    entity: Int[np.ndarray, " n_contexts"],
    group: Int[np.ndarray, " n_entities"],
    n_groups: int,
) -> NameLatents:
    """Encode the activations at names, a block of contexts at a time.

    Args:
        sae: The SAE.
        acts: Activations, float32.
        entity: Index of the entity of each context.
        group: Which entities' pre-activations are averaged together; -1: none.
        n_groups: Number of groups.
    """
    step = max(1, BLOCK_BYTES // (4 * sae.d_sae))
    sums, squares = np.zeros((n_groups, sae.d_sae)), np.zeros((n_groups, sae.d_sae))
    variance = VarianceSums(sae.d_in)
    parts: list[csr_array] = []
    order: list[np.ndarray] = []
    for rows in _entity_blocks(entity, step):
        order.append(rows)
        block = acts[torch.from_numpy(rows)]
        pre_acts = sae.pre_acts(block.to(sae.W_dec.device))
        latents = sae.activate(pre_acts)
        variance.update(block, sae.decode(latents))
        parts.append(csr_array(latents.cpu().numpy()))
        members, local = np.unique(entity[rows], return_inverse=True)
        means = group_matrix(local, len(members), mean=True) @ pre_acts.cpu().numpy().astype(np.float64)
        by_group = group_matrix(group[members], n_groups)
        sums += by_group @ means
        squares += by_group @ means**2
    counts = np.maximum(np.bincount(group[group >= 0], minlength=n_groups), 1)[:, None]
    mean = sums / counts
    stacked: Any = sparse.vstack(parts, format="csr")
    return NameLatents(
        contexts=stacked[np.argsort(np.concatenate(order))],
        pre_act_mean=mean,
        pre_act_std=np.sqrt(np.maximum(squares / counts - mean**2, 0.0)),
        fvu=variance.fvu(),
    )


def entity_latents(
    contexts: csr_array,
    entity: Int[np.ndarray, " n_contexts"],
    n_entities: int,
    use: Bool[np.ndarray, " n_contexts"] | None = None,
) -> EntityLatents:
    """Average over each entity's contexts, or over those of them that are used."""
    average = group_matrix(entity if use is None else np.where(use, entity, -1), n_entities, mean=True)
    fires = contexts.astype(np.float64)
    fires.data = (fires.data > 0).astype(np.float64)
    return EntityLatents(csr_array(average @ fires), csr_array(average @ contexts.astype(np.float64)))


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

    def maxmin(self, direction: str) -> Float[np.ndarray, " d_sae"]:
        """Return the MaxMin separation of one direction, `known` or `unknown`."""
        return {"known": self.maxmin_known, "unknown": self.maxmin_unknown}[direction]


def separation(
    latents: EntityLatents,
    is_known: Bool[np.ndarray, " n_entities"],
    kind: Int[np.ndarray, " n_entities"],
    n_types: int,
) -> Separation:
    """Score every latent on the entities given.

    Args:
        latents: One row per entity.
        is_known: Known or unknown.
        kind: Index of each entity's type.
        n_types: Number of types.
    """
    share = latents.frac_firing
    cell = np.where(is_known, 0, n_types) + kind
    counts = np.bincount(cell, minlength=2 * n_types).reshape(2, n_types, 1)
    sums = sum_by_group(share, cell, 2 * n_types).reshape(2, n_types, -1)
    with np.errstate(invalid="ignore"):
        freq = np.where(counts > 0, sums / counts, np.nan)
    score, margin = _welch(share, is_known)
    per_type = freq[0] - freq[1]
    both = (counts > 0).all(axis=0).ravel()
    per_type = per_type[both] if both.any() else score[None]
    side = (~is_known).astype(np.int64)
    often = share.copy()
    often.data = (often.data >= 0.5).astype(np.float64)
    fires_known, fires_unknown = sum_by_group(often, side, 2)
    n_known = int(is_known.sum())
    ranked = rank_test(latents.value, is_known)
    return Separation(
        freq=freq,
        score=score,
        low=score - margin,
        high=score + margin,
        maxmin_known=per_type.min(0),
        maxmin_unknown=(-per_type).min(0),
        auroc=ranked.auroc,
        p_value=np.maximum(fisher_p(fires_known, fires_unknown, n_known, len(is_known) - n_known), ranked.p_value),
    )


def _welch(share: csr_array, is_known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference of means, and half the width of Welch's 95 % interval of it."""
    side = (~is_known).astype(np.int64)
    n = np.array([is_known.sum(), (~is_known).sum()], dtype=np.float64)[:, None]
    mean = sum_by_group(share, side, 2) / n
    score = mean[0] - mean[1]
    if n.min() < 2:
        return score, np.full_like(score, np.nan)
    squares = sum_by_group(csr_array(share.multiply(share)), side, 2)
    error = np.maximum(squares - n * mean**2, 0.0) / (n - 1) / n  # squared standard error of each mean
    total = np.maximum(error.sum(0), 1e-300)
    df = total**2 / ((error**2 / (n - 1)).sum(0) + 1e-300)
    return score, stats.t.ppf(0.975, np.maximum(df, 1.0)) * np.sqrt(error.sum(0))
