"""The matched null: do the targets behave, inside, like a group of never-known entities that could have been they?

Groups are drawn from targets and candidates together, within strata (`matching.py`), and go through every statistic
(`group_statistics.py`) at every place (`places.py`). One p for all, two-sided:

    z = (T - mean T) / sd T over the groups;  p = share of groups with max |z| >= that of the targets

(Westfall & Young 1993, max T). Both tails count: targets that lie on top of single unknown names, or whose mean is more
central than that of any group, were put there. No limit is chosen but the level of the test.

Power, per place: a group moved by the share d of the way from unknown to known entities moves the statistic of the
known direction by d, so that it is outside in 80 % of groups once

    d = (c - q20(z)) sd T,    c the 95 % quantile of max |z|, q20 the 20 % quantile of z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from features.entities.collect import entity_means
from features.stats.probe import N_FOLDS, auroc, cross_validated_scores, fit_probe
from sae_train.intervals import NO_INTERVAL, Interval
from sae_train.rng import rng
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import MIN_ENTITIES, AuditContext
from unlearn.auditing.evaluations.group_statistics import KNOWN, Cloud, group_statistics
from unlearn.auditing.evaluations.matching import Matching, matchings, what_is_matched
from unlearn.auditing.evaluations.places import PlaceRows, entity_rows
from unlearn.auditing.evaluations.two_sample import frac_that_reaches, in_deviations
from unlearn.auditing.joint_figures import GroupStatistic, MatchedNull, MatchedPlace

LEVEL, POWER = 0.05, 0.8
REF_KNOWN, REF_UNKNOWN = "reference_known", "reference_unknown"  # groups of the context
MIN_TOLD = 0.6  # AUROC of known against unknown entities below which a place has no direction for knowing
Key = tuple[str, str]
"""(place, statistic)"""


@dataclass(frozen=True)
class Reading:
    """One place of one model, before anything is matched.

    Attributes:
        means: By entity.
        known, to_partner: By entity; see `Cloud`.
        is_told: Known and unknown entities are told apart there.
    """

    means: dict[str, Float[np.ndarray, " width"]]
    known: dict[str, float]
    to_partner: dict[str, float]
    is_told: bool


def evaluate_matched_null(context: AuditContext) -> Findings | None:
    """Return the targets beside matched groups in the model after; None where there are too few candidates."""
    tried = matchings(context)
    return Findings(matched=matched_null(context, read_places(context, tried), tried)) if tried else None


def matched_null(context: AuditContext, readings: Mapping[str, Reading], tried: Sequence[Matching]) -> MatchedNull:
    """Compare the targets with groups of every history that they could have, and return the comparison that fits best.

    Args:
        context: For its draws.
        readings: By place.
        tried: One matching per history.
    """
    found = [compared(readings, matching, context.config.seed) for matching in tried]
    best = max(range(len(found)), key=lambda i: how_well(found[i]))
    by_history = {m.history: f.p for m, f in zip(tried, found, strict=True)}
    return replace(found[best], matched=what_is_matched(context, tried[best]), p_by_history=by_history)


def how_well(found: MatchedNull) -> tuple[float, float]:
    """Return what orders comparisons by how well the targets fit: p, and where no group reaches them how far they are.

    The smallest p that there can be says how many groups were drawn, not how well anything fits. How far is the share
    of the variance over targets and groups that is the targets' own, z^2 / (1 + n_groups): z itself is bounded by it.

    Example:
        >>> few = MatchedNull(1 / 60, 8, 40, n_groups=59, history="", place="", statistic="", z=7.5, detectable=0.1)
        >>> how_well(few) < how_well(replace(few, p=1 / 200, n_groups=199, z=-4.0))
        True
    """
    is_least = found.p <= 1 / (found.n_groups + 1) + 1e-12
    return 0.0 if is_least else found.p, -(found.z**2) / (1 + found.n_groups)


def read_places(context: AuditContext, tried: Sequence[Matching]) -> dict[str, Reading]:
    """Read targets, candidates, and the known and unknown entities that directions are fitted on; the model after."""
    everyone = {e.key: e for e in (*context.forget, *(e for m in tried for e in m.entities))}
    groups = {"read": list(everyone.values()), **{g: context.group(g) for g in (REF_KNOWN, REF_UNKNOWN)}}
    rows = {name: entity_rows(context, entities, "after") for name, entities in groups.items()}
    shared = set.intersection(*(set(r.acts) for r in rows.values()))
    return {name: _reading(rows, name, context.config.seed) for name in rows["read"].acts if name in shared}


def _reading(rows: Mapping[str, PlaceRows], name: str, seed: int) -> Reading:
    """Return one place."""
    means: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for group, own in rows.items():
        has = own.having(name)
        means[group] = entity_means(own.acts[name].numpy()[has].astype(np.float64), own.entity[has])
    (known, known_keys), (unknown, unknown_keys) = means[REF_KNOWN], means[REF_UNKNOWN]
    points, keys = means["read"][0], [str(k) for k in means["read"][1]]
    x, is_known = np.concatenate([known, unknown]), np.r_[np.ones(len(known)), np.zeros(len(unknown))].astype(bool)
    axis, is_told = _known_axis(x, is_known, np.r_[known_keys, unknown_keys], points, seed)
    nearest = _to_nearest(points, keys, unknown, [str(k) for k in unknown_keys])
    return Reading(
        dict(zip(keys, points, strict=True)),
        dict(zip(keys, axis.tolist(), strict=True)),
        dict(zip(keys, nearest.tolist(), strict=True)),
        is_told,
    )


def _known_axis(
    x: np.ndarray, is_known: np.ndarray, groups: np.ndarray, points: np.ndarray, seed: int
) -> tuple[Float[np.ndarray, " n"], bool]:
    """Return where points lie from unknown (0) to known (1), and whether these are told apart.

    The two ends are means of held-out scores: those of the entities it was fitted on lie farther apart.
    """
    if min(is_known.sum(), (~is_known).sum()) < 2:
        return np.zeros(len(points)), False
    held_out = cross_validated_scores(x, is_known, groups, seed=seed)
    zero, one = held_out[~is_known].mean(), held_out[is_known].mean()
    told = auroc(held_out, is_known) >= MIN_TOLD and one > zero
    scores = fit_probe(torch.from_numpy(x), is_known).scores(points)
    return (scores - zero) / max(one - zero, 1e-9) if told else scores, bool(told)


def _to_nearest(points: np.ndarray, keys: list[str], others: np.ndarray, other_keys: list[str]) -> np.ndarray:
    """Return the distance of every point to the nearest other one of its type, in standard deviations of the points."""
    scale = np.maximum(points.std(0), 1e-6)
    types, other_types = (np.array([k.split(":", 1)[0] for k in own]) for own in (keys, other_keys))
    found = np.full(len(points), np.nan)
    for kind in np.unique(types):
        own, other = points[types == kind] / scale, others[other_types == kind] / scale
        if len(other):
            found[types == kind] = [np.linalg.norm(other - point, axis=1).min() for point in own]
    return np.where(np.isfinite(found), found, 1.0)


def compared(readings: Mapping[str, Reading], matching: Matching, seed: int) -> MatchedNull:
    """Compare targets and null groups under one history; the seed deals the folds."""
    labels, n_targets = matching.labels, int(matching.labels[0].sum())
    fold_of = folds_of(matching.strata, seed)
    values: dict[Key, np.ndarray] = {}
    for place, reading in readings.items():
        has = np.array([e.key in reading.means for e in matching.entities])
        own = labels[:, has]
        if own[0].sum() < min(n_targets, MIN_ENTITIES) or not (own.sum(1) < own.shape[1]).all():
            continue
        found = group_statistics(_cloud(reading, matching, has, fold_of), own, classify=n_targets >= MIN_ENTITIES)
        # A group of which nobody has the place says nothing there.
        values |= {(place, name): np.where(np.isfinite(v), v, np.nanmean(v)) for name, v in found.items()}
    told = {place for place, reading in readings.items() if reading.is_told}
    return judged(values, told, n_targets, labels.shape[1] - n_targets, matching.history)


def folds_of(strata: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """Deal every stratum over the folds, whoever the targets are."""
    generator, fold_of = rng("matched_null.folds", seed), np.zeros(len(strata), dtype=int)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        fold_of[generator.permutation(rows)] = (np.arange(len(rows)) + generator.integers(N_FOLDS)) % N_FOLDS
    return fold_of


def _cloud(reading: Reading, matching: Matching, has: np.ndarray, fold_of: np.ndarray) -> Cloud:
    """Return the entities that have the place, with what is matched by regression taken out."""
    keys = [e.key for e, own in zip(matching.entities, has, strict=True) if own]
    points = np.stack([reading.means[k] for k in keys])
    points /= np.maximum(points.std(0), 1e-6)  # a scale that knew the labels would be no test of these
    covariates = matching.covariates[has]
    return Cloud(
        points=residuals(points, covariates),
        fold_of=fold_of[has],
        strata=matching.strata[has],
        known=residuals(np.array([reading.known[k] for k in keys]), covariates),
        to_partner=residuals(np.array([reading.to_partner[k] for k in keys]), covariates),
    )


def residuals(values: np.ndarray, covariates: Float[np.ndarray, "n n_covariates"]) -> np.ndarray:
    """Return what a linear regression on the covariates leaves: what is permuted (Freedman & Lane 1983)."""
    return values - covariates @ np.linalg.lstsq(covariates, values, rcond=None)[0]


def judged(
    values: Mapping[Key, Float[np.ndarray, " draws"]], told: set[str], n_targets: int, n_candidates: int, history: str
) -> MatchedNull:
    """Join the statistics of all places.

    Args:
        values: By place and statistic: of the targets first, then of every null group.
        told: Places where known and unknown entities are told apart.
        n_targets, n_candidates, history: For the report.
    """
    keys = list(values)
    table = np.stack([values[key] for key in keys])
    z = in_deviations(table)
    most = np.abs(z).max(axis=0)
    limit = float(np.quantile(most, 1 - LEVEL))
    worst = int(np.abs(z[:, 0]).argmax())
    places: dict[str, MatchedPlace] = {}
    for index, (place, name) in enumerate(keys):
        low, high = np.quantile(table[index, 1:], [0.025, 0.975])
        p = float((most >= abs(z[index, 0]) - 1e-12).mean())
        one = GroupStatistic(float(table[index, 0]), float(low), float(high), float(z[index, 0]), p)
        before = places.get(place, MatchedPlace(NO_INTERVAL, float("nan")))
        if name == KNOWN and place in told:
            remaining = Interval(one.value, one.value - float(high), one.value - float(low))
            detectable = float((limit - np.quantile(z[index, 1:], 1 - POWER)) * table[index].std())
            before = replace(before, remaining=remaining, detectable=detectable)
        places[place] = replace(before, statistics={**before.statistics, name: one})
    found = [p.detectable for p in places.values() if np.isfinite(p.detectable)]
    return MatchedNull(
        p=frac_that_reaches(most),
        n_targets=n_targets,
        n_candidates=n_candidates,
        n_groups=table.shape[1] - 1,
        history=history,
        place=keys[worst][0],
        statistic=keys[worst][1],
        z=float(z[worst, 0]),
        detectable=float(np.median(found)) if found else float("nan"),
        places=places,
    )
