"""Linear probes on activations and their AUROC. Folds are scikit-learn's, the minimiser is scipy's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata
from torch import Tensor

from sae_train.errors import EntityError, NumericalError
from sae_train.intervals import Interval
from sae_train.quality.bootstrap import central_range
from sae_train.rng import rng

RIDGE_C = 0.05  # inverse strength of the L2 penalty on standardised inputs
PENALTIES = (1e-4, 1e-3, 1e-2, RIDGE_C, 0.3)  # what `best_penalty` chooses from, strongest first
N_FOLDS = 5
LBFGS = {"maxiter": 2000, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}  # scikit-learn's own
N_BOOTSTRAP = 500
DRAWN_AT_ONCE = 2_000_000  # rows times resamples, which take 8 bytes each


@dataclass(frozen=True)
class LinearProbe:
    """score(x) = weight . (x - mean) / std + bias; above 0 means the positive class.

    Attributes:
        mean, std: Of the activations it was fitted on, (d_in,).
        weight: (d_in,).
        bias: One number.
    """

    mean: Float[np.ndarray, " d_in"]
    std: Float[np.ndarray, " d_in"]
    weight: Float[np.ndarray, " d_in"]
    bias: float

    def scores(self, acts: Tensor | np.ndarray) -> Float[np.ndarray, " n"]:
        """Return the signed distance of every row."""
        return (np.asarray(acts, dtype=np.float64) - self.mean) / self.std @ self.weight + self.bias


def fit_probe(acts: Tensor | np.ndarray, is_positive: np.ndarray, c: float = RIDGE_C) -> LinearProbe:
    """Fit a logistic regression with an L2 penalty (inverse strength `c`) on standardised activations.

    The minimum over w and b of mean_i s_i log(1 + exp(-y_i (w . x_i + b))) + ||w||^2 / (2 c n), y = +-1, with s_i such
    that both classes weigh the same: what scikit-learn's `LogisticRegression(C=c, class_weight="balanced")` looks for.

    Raises:
        EntityError: One of the classes is empty.
        NumericalError: NaN or Inf among the activations.
    """
    x, y = np.asarray(acts, dtype=np.float64), np.asarray(is_positive, dtype=bool)
    if y.all() or not y.any():
        raise EntityError("a probe needs both classes", got=f"{int(y.sum())} of {len(y)} positive", expected="both")
    if not np.isfinite(x).all():
        raise NumericalError("a probe needs finite activations", got="NaN or Inf", expected="a model that works")
    mean, std = x.mean(0), np.maximum(x.std(0), 1e-6)
    weight, bias = _logistic((x - mean) / std, y, c)
    return LinearProbe(mean=mean, std=std, weight=weight, bias=bias)


def _logistic(x: np.ndarray, y: np.ndarray, c: float) -> tuple[np.ndarray, float]:
    """Return weight and bias of the logistic regression in `fit_probe`.

    By itself, not by scikit-learn: its checks take as long as the fit, and an audit fits a thousand.
    """
    sign, n = np.where(y, 1.0, -1.0), len(y)
    share = np.where(y, 0.5 / y.sum(), 0.5 / (n - y.sum()))
    ridge = 1 / (c * n)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ at[:-1] + at[-1])
        slope = -share * sign * expit(-margin)
        value = share @ np.logaddexp(0, -margin) + ridge / 2 * (at[:-1] @ at[:-1])
        return float(value), np.r_[slope @ x + ridge * at[:-1], slope.sum()]

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options=dict(LBFGS)).x
    return found[:-1], float(found[-1])


def auroc(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Return the area under the ROC curve: P(positive scores above negative), ties count half.

    AUROC = (R - n (n + 1) / 2) / (n m), R the sum of the ranks of the n positive scores among all n + m.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    ranks, n = rankdata(scores), int(np.sum(is_positive))
    return float((ranks[is_positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def best_penalty(acts: Tensor | np.ndarray, is_positive: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> float:
    """Return the one of `PENALTIES` with the largest cross-validated AUROC; of equals the strongest penalty.

    How much a probe finds with a few hundred entities in as many dimensions is as much the penalty's doing. Classes of
    fewer groups than folds are too small to choose by: `RIDGE_C`.
    """
    y = np.asarray(is_positive, dtype=bool)
    if min(len(np.unique(groups[y])), len(np.unique(groups[~y]))) < N_FOLDS:
        return RIDGE_C
    found = [cross_validated_auroc(acts, y, groups, seed=seed, c=c) for c in PENALTIES]
    return PENALTIES[int(np.argmax(found))]


def cross_validated_scores(
    acts: Tensor | np.ndarray, is_positive: np.ndarray, groups: np.ndarray, *, seed: int = 0, c: float = RIDGE_C
) -> Float[np.ndarray, " n"]:
    """Return out-of-fold probe scores; rows of one group (an entity) are never split over folds.

    Groups of each class are dealt over the folds separately, so that every fold holds both.
    """
    x, y = np.asarray(acts, dtype=np.float64), np.asarray(is_positive, dtype=bool)
    fold_of = _folds(y, groups, seed)
    scores = np.full(len(y), np.nan)
    for fold in np.unique(fold_of):
        test = fold_of == fold
        scores[test] = fit_probe(x[~test], y[~test], c).scores(x[test])
    return scores


def _folds(is_positive: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Deal the groups of each class over the folds, shuffled."""
    fold_of = np.full(len(groups), -1)
    for side in (False, True):
        rows = np.flatnonzero(is_positive == side)
        n_groups = len(np.unique(groups[rows]))
        if n_groups < 2:
            raise EntityError(
                "cross-validation needs two entities of each class",
                got=f"{n_groups} entities",
                expected=">= 2",
            )
        from sklearn.model_selection import GroupKFold

        splitter = GroupKFold(n_splits=min(N_FOLDS, n_groups), shuffle=True, random_state=seed)
        for fold, (_, test) in enumerate(splitter.split(rows, groups=groups[rows])):
            fold_of[rows[test]] = fold
    return fold_of


def cross_validated_auroc(
    acts: Tensor | np.ndarray, is_positive: np.ndarray, groups: np.ndarray, *, seed: int = 0, c: float = RIDGE_C
) -> float:
    """Return the AUROC of out-of-fold probe scores, entities kept whole; see `fold_auroc`."""
    y = np.asarray(is_positive, dtype=bool)
    return fold_auroc(cross_validated_scores(acts, y, groups, seed=seed, c=c), y, _folds(y, groups, seed))


def cross_validated_interval(
    acts: Tensor | np.ndarray, is_positive: np.ndarray, groups: np.ndarray, *, seed: int = 0
) -> Interval:
    """Return the same figure with a bootstrap interval over entities."""
    y = np.asarray(is_positive, dtype=bool)
    scores = cross_validated_scores(acts, y, groups, seed=seed)
    return auroc_interval(scores, y, groups, fold_of=_folds(y, groups, seed), seed=seed)


def fold_auroc(scores: np.ndarray, is_positive: np.ndarray, fold_of: np.ndarray) -> float:
    """Return the mean over folds of the AUROC inside each.

    Each fold has its own probe, so scores of different folds are not comparable: pooled, two samples from
    one population would score below 0.5.
    """
    values = []
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        if 0 < is_positive[rows].sum() < rows.sum():
            values.append(auroc(scores[rows], is_positive[rows]))
    return float(np.mean(values)) if values else float("nan")


def auroc_interval(
    scores: np.ndarray,
    is_positive: np.ndarray,
    groups: np.ndarray,
    *,
    fold_of: np.ndarray | None = None,
    seed: int = 0,
) -> Interval:
    """Return the AUROC with a 95 % percentile bootstrap interval; entities are drawn, each class for itself."""
    y = np.asarray(is_positive, dtype=bool)
    folds = np.zeros(len(y), dtype=int) if fold_of is None else fold_of
    generator = rng("probe.auroc", seed)
    sides = [_members(groups, y == side) for side in (False, True)]
    step = max(1, DRAWN_AT_ONCE // len(y))
    draws = np.concatenate(
        [
            _drawn_aurocs(scores, y, folds, _draw_weights(sides, len(y), min(step, N_BOOTSTRAP - start), generator))
            for start in range(0, N_BOOTSTRAP, step)
        ]
    )
    return Interval(fold_auroc(scores, y, folds), *central_range(draws))


def _members(groups: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each group among the wanted ones."""
    rows = np.flatnonzero(wanted)
    order = rows[np.argsort(groups[rows], kind="stable")]
    ordered = groups[order]  # texts as well as numbers
    return np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)


def _draw_weights(
    sides: list[list[np.ndarray]], n_rows: int, n_draws: int, generator: np.random.Generator
) -> Float[np.ndarray, "n_draws n_rows"]:
    """Draw of either side as many groups as there are, with replacement; return how often each row was drawn."""
    weights = np.zeros((n_draws, n_rows))
    # rows of one side, one group behind the other, and which group each is of
    laid_out = [(np.concatenate(m), np.repeat(np.arange(len(m)), [len(rows) for rows in m])) for m in sides]
    for own in weights:
        for members, (rows, group_of) in zip(sides, laid_out, strict=True):
            picked = generator.integers(0, len(members), len(members))
            own[rows] = np.bincount(picked, minlength=len(members))[group_of]
    return weights


def _drawn_aurocs(
    scores: np.ndarray, is_positive: np.ndarray, fold_of: np.ndarray, weights: Float[np.ndarray, "n_draws n_rows"]
) -> Float[np.ndarray, " n_draws"]:
    """Return `fold_auroc` of every resample, all of them together; NaN where no fold of one has both classes."""
    found = []
    for fold in np.unique(fold_of):
        rows = np.flatnonzero(fold_of == fold)
        order = rows[np.argsort(scores[rows], kind="stable")]
        starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # of equal scores
        positive, negative = (
            np.add.reduceat(weights[:, order] * (is_positive[order] == side), starts, axis=1) for side in (True, False)
        )
        below = negative.cumsum(axis=1) - negative / 2  # ties count half
        n_pairs = positive.sum(axis=1) * negative.sum(axis=1)
        with np.errstate(invalid="ignore"):
            found.append((positive * below).sum(axis=1) / n_pairs)
    values = np.array(found)
    is_there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_there, values, 0).sum(axis=0) / is_there.sum(axis=0)
