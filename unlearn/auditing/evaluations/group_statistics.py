"""Statistics that compare a group of entities with the others at one place, under many labellings at once.

Each takes the labels of all draws, (draws, n), 1 where an entity is of the group, and returns one value per draw.
Nothing else depends on the labels: scale, folds, directions and distances to third entities are fixed before, so that
the values under random labels are the null of the value under the true ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata

from unlearn.auditing.evaluations.two_sample import energy_distances

CLASSIFIER, ENERGY, KNOWN, PARTNER, CENTRE = (
    "classifier",
    "energy distance",
    "known direction",
    "nearest unknown entity",
    "centre of the group",
)
RIDGE = 1.0  # times the mean squared length of a point: as in the value probe, no penalty that was searched for
LEAST = 1e-12  # below it there is nothing to take a logarithm of
Labels = Float[np.ndarray, "draws n"]
Values = Float[np.ndarray, " draws"]


@dataclass(frozen=True)
class Cloud:
    """Entities at one place.

    Attributes:
        points: One per entity, in standard deviations of all of them, what is matched by regression taken out.
        fold_of: Fold of each entity, the same whatever the labels.
        strata: Stratum of each entity.
        known: Where each lies from unknown (0) to known (1) entities of the same model, by a probe fitted on others.
        to_partner: Distance of each to the nearest of third unknown entities of its type.
    """

    points: Float[np.ndarray, "n width"]
    fold_of: Int[np.ndarray, " n"]
    strata: Int[np.ndarray, " n"]
    known: Float[np.ndarray, " n"]
    to_partner: Float[np.ndarray, " n"]


def group_statistics(cloud: Cloud, labels: Labels, *, classify: bool = True) -> dict[str, Values]:
    """Return every statistic under every labelling.

    Args:
        cloud: The entities.
        labels: The true labels first.
        classify: Fit a classifier: a group of few has no folds.
    """
    found = {CLASSIFIER: fold_aurocs(cloud.points, labels, cloud.fold_of)} if classify else {}
    distances = squareform(pdist(cloud.points))
    # Logarithms, since a few large values of a skewed null would set the limit for all statistics together.
    found[ENERGY] = np.log(np.maximum(energy_distances(distances, labels), LEAST))
    found[KNOWN] = mean_difference(cloud.known, labels)
    found[PARTNER] = mean_difference(cloud.to_partner, labels)
    found[CENTRE] = np.log(np.maximum(centralities(cloud.points, labels, cloud.strata), LEAST))
    return found


def mean_difference(values: Float[np.ndarray, " n"], labels: Labels) -> Values:
    """Return the mean of the group less that of the others.

    Example:
        >>> mean_difference(np.array([1.0, 3.0, 5.0]), np.array([[1.0, 0.0, 0.0]]))
        array([-3.])
    """
    others = 1.0 - labels
    return labels @ values / labels.sum(1) - others @ values / others.sum(1)


def centralities(points: Float[np.ndarray, "n width"], labels: Labels, strata: Int[np.ndarray, " n"]) -> Values:
    """Return how far the group's mean lies from that of all, strata centred first; an average group is near."""
    centred = points.copy()
    for stratum in np.unique(strata):
        centred[strata == stratum] -= points[strata == stratum].mean(0)
    return np.linalg.norm(labels @ centred, axis=1) / labels.sum(1)


def fold_aurocs(points: Float[np.ndarray, "n width"], labels: Labels, fold_of: Int[np.ndarray, " n"]) -> Values:
    """Return the AUROC of a ridge classifier on held-out folds, over all pairs of group and others within a fold.

    In its dual form, so that what is inverted does not depend on the labels: s = K_test,train (K + r I)^-1 (y - mean y)
    with K the products of points centred on the training folds and r = `RIDGE` times the mean of its diagonal.
    """
    concordant, pairs = np.zeros(len(labels)), np.zeros(len(labels))
    for fold in np.unique(fold_of):
        test = fold_of == fold
        center = points[~test].mean(0)
        train, held = points[~test] - center, points[test] - center
        kernel = train @ train.T
        penalty = max(RIDGE * float(kernel.diagonal().mean()), LEAST) * np.eye(len(train))
        weights = np.linalg.solve(kernel + penalty, train @ held.T)
        y, own = labels[:, ~test], labels[:, test]
        ranks = rankdata((y - y.mean(1, keepdims=True)) @ weights, axis=1)
        n = own.sum(1)
        concordant += (ranks * own).sum(1) - n * (n + 1) / 2
        pairs += n * (test.sum() - n)
    return np.divide(concordant, pairs, out=np.full(len(labels), np.nan), where=pairs > 0)
