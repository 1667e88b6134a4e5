"""How well each check, and the depth, tell forgotten models from others: ROC with intervals, errors, leave-one-seed-out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.audit.detector_cells import FORGOTTEN, NOT, Cell, of_truth
from features.stats.intervals import wilson
from features.stats.probe import auroc, auroc_interval
from sae_train.intervals import NO_INTERVAL, Interval
from unlearn.auditing.audit_report import Check
from unlearn.auditing.depth import depth_of

DEPTH = "depth"
DAMAGE = ("gibberish", "recall lost by", "recall gained by", "rise of general-text loss", "entropy lost")
"""Beginnings of the checks that ask what else was lost, not what is left of the targets."""
Score = Callable[[Cell], float]
"""The higher, the more forgotten; NaN where it was not measured."""


def family_of(check: Check) -> str:
    """Return a check without its place: many places are one check of the audit.

    Example:
        >>> family_of(Check("value probe at layers.2", 0, 0, 0, 0, "<=", "pass", ""))
        'value probe'
    """
    return check.name.split(" at ")[0]


def margin_of(cell: Cell, family: str) -> float:
    """Return the smallest distance of a check's figures from their limits, on the good side; NaN if none was made."""
    found = [
        (c.threshold - c.value) * (1 if c.rule == "<=" else -1)
        for c in cell.report.checks
        if family_of(c) == family and math.isfinite(c.value) and math.isfinite(c.threshold)
    ]
    return min(found, default=math.nan)


def depth_score(cell: Cell) -> float:
    """Return the depth, found from the figures."""
    depth = depth_of(cell.report)
    return math.nan if depth is None else depth.score.value


def scores_of(cells: Sequence[Cell]) -> dict[str, Score]:
    """Return every score that a bench has: the depth, then each check alone."""
    families = dict.fromkeys(family_of(c) for cell in cells for c in cell.report.checks if "(not run)" not in c.name)
    return {DEPTH: depth_score} | {f: (lambda cell, f=f: margin_of(cell, f)) for f in families}


@dataclass(frozen=True)
class Roc:
    """How well one score tells forgotten from not.

    Attributes:
        name: Of the score.
        auc: With its interval; seeds are drawn where there are at least three, else cells.
        n_forgotten, n_not: Cells that have the score.
        worst_seed: The smallest AUROC of one seed's cells alone.
    """

    name: str
    auc: Interval
    n_forgotten: int
    n_not: int
    worst_seed: float


def roc(cells: Sequence[Cell], name: str, score: Score) -> Roc:
    """Return how well a score tells the cells of known truth apart; those that stand apart do not count."""
    counted = [(c, s) for c in of_truth(cells, FORGOTTEN, NOT) if math.isfinite(s := score(c))]
    values = np.array([s for _, s in counted])
    is_forgotten = np.array([c.truth == FORGOTTEN for c, _ in counted], dtype=bool)
    n = int(is_forgotten.sum())
    if not 0 < n < len(counted):
        return Roc(name, NO_INTERVAL, n, len(counted) - n, math.nan)
    seeds = np.array([c.seed for c, _ in counted])
    per_side = [len(np.unique(seeds[is_forgotten == side])) for side in (False, True)]
    groups = seeds if min(per_side) >= 3 else np.arange(len(counted))
    alone = []
    for seed in np.unique(seeds):
        own = seeds == seed
        if 0 < is_forgotten[own].sum() < own.sum():
            alone.append(auroc(values[own], is_forgotten[own]))
    return Roc(name, auroc_interval(values, is_forgotten, groups), n, len(counted) - n, min(alone, default=math.nan))


@dataclass(frozen=True)
class Errors:
    """Errors of a decision, as shares with Wilson's 95 % interval.

    Attributes:
        false_passes: Of the models that have not forgotten, those called forgotten.
        false_fails: Of those that have, those called not.
        cheats: Of the cheats that have not, those called forgotten.
    """

    false_passes: Interval
    false_fails: Interval
    cheats: Interval


def errors(cells: Sequence[Cell], says_forgotten: Callable[[Cell], bool], says_not: Callable[[Cell], bool]) -> Errors:
    """Return the errors of a decision; what it leaves open is none."""
    bad, good = of_truth(cells, NOT), of_truth(cells, FORGOTTEN)
    cheats = [c for c in bad if c.family == "cheat"]
    return Errors(_share(bad, says_forgotten), _share(good, says_not), _share(cheats, says_forgotten))


def verdict_errors(cells: Sequence[Cell]) -> Errors:
    """Return the errors of the verdict: `inconclusive` is neither."""
    return errors(cells, lambda c: c.report.verdict == "pass", lambda c: c.report.verdict == "fail")


def without_damage(cell: Cell) -> Cell:
    """Return a cell judged by what is left of the targets alone: a careful cheat loses nothing else."""
    statuses = {c.status for c in cell.report.checks if not c.name.startswith(DAMAGE)}
    verdict = "fail" if "fail" in statuses else "inconclusive" if "inconclusive" in statuses else "pass"
    return replace(cell, report=replace(cell.report, verdict=verdict))


def left_out_errors(cells: Sequence[Cell], score: Score) -> Errors:
    """Return the errors of a score on each seed by the limit that is best on all others: halfway between the classes."""
    limits = {}
    for seed in {c.seed for c in cells}:
        limits[seed] = best_limit([c for c in cells if c.seed != seed] or list(cells), score)

    def above(cell: Cell) -> bool:
        return score(cell) > limits[cell.seed]

    return errors(cells, above, lambda c: not above(c))


def best_limit(cells: Sequence[Cell], score: Score) -> float:
    """Return the limit with the smallest sum of both error rates (Youden), in the middle of the gap it lies in."""
    good = np.array([s for c in of_truth(cells, FORGOTTEN) if math.isfinite(s := score(c))])
    bad = np.array([s for c in of_truth(cells, NOT) if math.isfinite(s := score(c))])
    if not len(good) or not len(bad):
        return math.nan
    values = np.unique(np.r_[good, bad])
    limits = np.r_[values[0] - 1.0, (values[1:] + values[:-1]) / 2, values[-1] + 1.0]
    return float(min(limits, key=lambda limit: (good <= limit).mean() + (bad > limit).mean()))


def _share(cells: Sequence[Cell], decided: Callable[[Cell], bool]) -> Interval:
    """Return the share of some cells about which something is decided."""
    if not cells:
        return NO_INTERVAL
    hits = sum(map(decided, cells))
    low, high = wilson(float(hits), len(cells))
    return Interval(hits / len(cells), float(low), float(high))


def catches(cells: Sequence[Cell]) -> dict[str, Counter[str]]:
    """Return, by name of a cheat or near miss, how many of its models each check did not pass."""
    found: dict[str, Counter[str]] = {}
    for cell in cells:
        if cell.family in ("cheat", "near miss"):
            found.setdefault(cell.name, Counter()).update(
                {family_of(c) for c in cell.report.checks if c.status != "pass"}
            )
    return found
