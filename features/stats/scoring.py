"""Scores of whole entities: ridge logistic regression on a few readings, fitted on the mining half.

    score(e) = sum_j w_j (z_j(e) - m_j) / s_j + b

z_j(e) is the mean of reading j over the entity's contexts, m_j and s_j its mean and standard deviation over the mining
entities, and w, b the logistic regression of `probe.fit_probe` with the penalty that cross-validates best on the mining
half. Above 0 means known. Whatever is compared with the selected latents (the whole activation: the probe; random
latents, residual dimensions, covariates) is scored the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csr_array

from features.stats.probe import LinearProbe, best_penalty, fit_probe
from features.stats.selection import DIRECTIONS


@dataclass(frozen=True)
class ScoreTerm:
    """One latent in the score of the selected set: a row of the table `score`.

    Attributes:
        latent: Index of the latent.
        direction: `known` or `unknown`: which list it was selected for.
        weight: w_j, per standard deviation; positive speaks for known.
        mean, std: m_j and s_j, in the latent's own scale.
        bias: b, the same in every row.
    """

    latent: int
    direction: str
    weight: float
    mean: float
    std: float
    bias: float


def score_terms(probe: LinearProbe, chosen: dict[str, list[int]]) -> list[ScoreTerm]:
    """Return the score as rows of a table; the probe's inputs are the selected latents, known ones first."""
    names = [(j, direction) for direction in DIRECTIONS for j in chosen[direction]]
    return [
        ScoreTerm(j, direction, float(w), float(m), float(s), probe.bias)
        for (j, direction), w, m, s in zip(names, probe.weight, probe.mean, probe.std, strict=True)
    ]


def readings(value: csr_array, latents: Sequence[int]) -> Float[np.ndarray, "n_entities n_chosen"]:
    """Return the mean values of a few latents, dense."""
    taken: Any = value[:, list(latents)]
    return taken.toarray()


def fitted_scores(
    x: Float[np.ndarray, "n_entities n_readings"],
    is_known: Bool[np.ndarray, " n_entities"],
    mining: Bool[np.ndarray, " n_entities"],
    c: float | None = None,
) -> tuple[LinearProbe, Float[np.ndarray, " n_entities"]]:
    """Fit on the mining half and score every entity.

    Args:
        x: Readings, one row per entity.
        is_known, mining: Class and half of every entity.
        c: Inverse strength of the penalty; by default the one that cross-validates best on the mining half.
    """
    c = mining_penalty(x, is_known, mining) if c is None else c
    probe = fit_probe(x[mining], is_known[mining], c)
    return probe, probe.scores(x)


def mining_penalty(
    x: Float[np.ndarray, "n_entities n_readings"],
    is_known: Bool[np.ndarray, " n_entities"],
    mining: Bool[np.ndarray, " n_entities"],
) -> float:
    """Return the inverse strength of the penalty that cross-validates best on the mining half."""
    rows = np.flatnonzero(mining)
    return best_penalty(x[rows], is_known[rows], rows)
