"""Over how many latents a feature is split: how well probes find it that read its k best latents, for growing k.

F1(k) is that of an out-of-fold logistic regression on the k latents that fire most on the feature's rows and least on
others. Where one latent stands for the feature, a second adds nothing; where each of n holds a part (starts with S and
is short, starts with S and is long), F1 jumps up to k = n.

Source: Chanin et al. 2024 (arXiv:2409.14507), who take a jump of 0.03; they choose latents by an L1 probe, here it is
the difference of class means that *sae-probes* (arXiv:2502.16681) ranks by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from features.stats.probe import cross_validated_scores

JUMP = 0.03  # in F1, from which one latent more holds a part of the feature
MOST = 6  # latents that a feature is looked for in


@dataclass(frozen=True)
class Split:
    """The latents that a feature is split over.

    Attributes:
        latents: Those that stand for it, the best first.
        f1: F1 of the probe of the k best latents, k = 1, 2, …
    """

    latents: tuple[int, ...]
    f1: tuple[float, ...]

    @property
    def n(self) -> int:
        """Return the number of latents."""
        return len(self.latents)


def firing_differences(
    latents: Float[np.ndarray, "n d_sae"], is_positive: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " d_sae"]:
    """Return how much more each latent fires where the feature is: mean there minus mean elsewhere, in active means.

    Example:
        >>> firing_differences(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([True, False])).tolist()
        [1.0, -1.0]
    """
    n_on = (latents > 0).sum(axis=0)
    active_mean = latents.sum(axis=0) / np.maximum(n_on, 1)
    difference = latents[is_positive].mean(axis=0) - latents[~is_positive].mean(axis=0)
    return np.divide(difference, active_mean, out=np.zeros_like(difference), where=active_mean > 0)


def f1_score(is_said: Bool[np.ndarray, " n"], is_positive: Bool[np.ndarray, " n"]) -> float:
    """Return 2 hits / (2 hits + misses + false alarms); 0 where nothing is said and nothing is there.

    Example:
        >>> f1_score(np.array([True, True, False]), np.array([True, False, False]))
        0.6666666666666666
    """
    hits, wrong = (is_said & is_positive).sum(), (is_said ^ is_positive).sum()
    return float(2 * hits / max(1, 2 * hits + wrong))


def split_of(
    latents: Float[np.ndarray, "n d_sae"],
    is_positive: Bool[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    seed: int = 0,
) -> Split:
    """Return the latents that a feature is split over: as many as F1 goes on to jump with.

    Args:
        latents: What fires on some rows.
        is_positive: Where the feature is.
        groups: Rows of one group (an entity) are never split over folds.
        seed: Of the folds.

    Raises:
        EntityError: One of the classes has fewer than two groups.
    """
    ranked: Int[np.ndarray, " best"] = np.argsort(-firing_differences(latents, is_positive), kind="stable")[:MOST]
    f1 = [
        f1_score(cross_validated_scores(latents[:, ranked[:k]], is_positive, groups, seed=seed) > 0, is_positive)
        for k in range(1, len(ranked) + 1)
    ]
    flat = [k for k in range(1, len(f1)) if f1[k] - f1[k - 1] < JUMP]
    n = flat[0] if flat else len(f1)
    return Split(tuple(ranked[:n].tolist()), tuple(f1))
