"""Absorption: a latent that stands for a feature stays off where a more special latent has taken the feature over.

A sparse code is cheaper where the latent of "starts with S" is off in "short" and the latent of "short" writes both, so
training makes it so. Who reads the first latent then misses words without any sign. Measured on held-out rows in
which the feature is (truth) and a probe of the activations says so:

    needed_i = (x_i - mean of x without the feature) . p        p the probe's unit direction, or the true one
    added_ij = (latent_ij - mean of latent_j without the feature) W_dec_j . p

A row is *missed* where none of the latents that stand for the feature (`splitting.py`) is on, and *absorbed* where it
is missed and one other latent alone adds at least `SHARE` of what is needed.

A special latent that holds more of the feature than a jump of F1 (about 6 % of its rows) counts as a part of a split.

Source: Chanin et al. 2024 (arXiv:2409.14507), with SAEBench's share of the projection (Karvonen et al. 2025,
arXiv:2503.09532) in the place of ablation, and what rows without the feature have subtracted on both sides: a latent
that is always on absorbs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from features.probing.splitting import Split, split_of
from features.stats.intervals import mean_interval
from features.stats.probe import LinearProbe, auroc_interval, fit_probe
from sae_train.errors import EntityError
from sae_train.intervals import NO_INTERVAL, Interval
from sae_train.rng import rng
from sae_train.saes.base import Sae, require_autoencoder

SHARE = 0.4  # of what is needed, from which one latent has taken a feature over (SAEBench's tau_pa)
LEAST_AUROC = 0.8  # of the probe's lower end: what activations do not tell cannot be absorbed


@dataclass(frozen=True)
class Absorption:
    """How much of a feature its own latents miss, and other latents have taken over.

    Attributes:
        probe: AUROC of the activations' probe on held-out rows, over groups.
        split: The latents that stand for the feature.
        n_rows: Held-out rows in which the feature is and the probe says so; the shares are of these.
        missed: Share in which none of the latents that stand for the feature is on: of a group's rows, in the mean
            over groups.
        absorbed: Share in which one other latent has taken it over; NaN, as is `missed`, where the probe fails.
        absorbers: By latent, the rows in which it did.
    """

    probe: Interval
    split: Split
    n_rows: int
    missed: Interval
    absorbed: Interval
    absorbers: dict[int, int]


def absorption(
    sae: Sae,
    acts: Float[Tensor, "n d_in"],
    is_positive: Bool[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    direction: Float[np.ndarray, " d_in"] | None = None,
    seed: int = 0,
) -> Absorption:
    """Measure how much of a known feature an SAE's latents miss and absorb.

    Latents and direction are chosen on one half of the groups and judged on the other.

    Args:
        sae: The SAE.
        acts: What it reads, in the model's own scale.
        is_positive: In which rows the feature is.
        groups: Rows of one group (an entity) stay in one half, and are drawn together for the intervals.
        direction: The feature's direction where it is known; by default the probe's.
        seed: Of halves, folds and intervals.

    Raises:
        EntityError: Fewer than four groups of either class.
        ConfigError: A transcoder or crosscoder, whose latents do not write where they read.
    """
    require_autoencoder(sae, "absorption")
    fit = _first_half(is_positive, groups, seed)
    with torch.no_grad():
        latents = sae.encode(acts.to(sae.W_enc.device, sae.W_enc.dtype)).cpu().double().numpy()
    x, y = acts.double().numpy(), is_positive
    probe = fit_probe(x[fit], y[fit])
    split = split_of(latents[fit], y[fit], groups[fit], seed=seed)
    scores = probe.scores(x[~fit])
    auroc = auroc_interval(scores, y[~fit], groups[~fit], seed=seed)
    sure = np.flatnonzero(~fit)[y[~fit] & (scores > 0)]
    if auroc.low < LEAST_AUROC or not len(sure):
        return Absorption(auroc, split, len(sure), NO_INTERVAL, NO_INTERVAL, {})
    p = _unit(probe) if direction is None else np.asarray(direction, dtype=np.float64)
    without, own = fit & ~y, np.array(split.latents)
    needed = (x[sure] - x[without].mean(axis=0)) @ p
    added = (latents[sure] - latents[without].mean(axis=0)) * (sae.W_dec.detach().cpu().double().numpy() @ p)
    added[latents[sure] <= 0] = -np.inf
    added[:, own] = -np.inf
    is_missed = np.asarray((latents[sure][:, own] <= 0).all(axis=1))
    is_absorbed = is_missed & (needed > 0) & (added.max(axis=1) >= SHARE * needed)
    found, counts = np.unique(added.argmax(axis=1)[is_absorbed], return_counts=True)
    return Absorption(
        probe=auroc,
        split=split,
        n_rows=len(sure),
        missed=_share(is_missed, groups[sure], seed),
        absorbed=_share(is_absorbed, groups[sure], seed),
        absorbers=dict(zip(found.tolist(), counts.tolist(), strict=True)),
    )


def _first_half(is_positive: np.ndarray, groups: np.ndarray, seed: int) -> Bool[np.ndarray, " n"]:
    """Return which rows are to choose by: half of the groups with the feature, and half of those without."""
    chosen = []
    for side in (True, False):
        own = np.unique(groups[is_positive == side])
        if len(own) < 4:
            raise EntityError("absorption is judged on one half", got=f"{len(own)} groups", expected=">= 4 of a class")
        chosen.append(rng("absorption.halves", seed, int(side)).permutation(own)[: len(own) // 2])
    positive, negative = (np.isin(groups, own) for own in chosen)
    return np.where(is_positive, positive, negative)


def _unit(probe: LinearProbe) -> Float[np.ndarray, " d_in"]:
    """Return a probe's direction among activations, of length one."""
    direction = probe.weight / probe.std
    return direction / np.linalg.norm(direction)


def _share(is_so: Bool[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"], seed: int) -> Interval:
    """Return the share of a group's rows in which it is so, in the mean over groups, with its interval."""
    _, where = np.unique(groups, return_inverse=True)
    return mean_interval(np.bincount(where, weights=is_so) / np.bincount(where), seed)
