"""Controls for the selected latents: other readings of the same names, scored the same way.

All AUROCs are of held-out entities; everything was chosen and fitted on the mining half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from features.config import SelectionRule
from features.stats.hypothesis_tests import q_values
from features.stats.probe import auroc, auroc_interval
from features.stats.scoring import fitted_scores, mining_penalty, readings
from features.stats.selection import select, together
from features.stats.separation import EntityLatents, Separation, separation
from sae_train.intervals import NO_INTERVAL, Interval
from sae_train.quality.bootstrap import central_range
from sae_train.rng import rng

N_RANDOM_SETS = 30


@dataclass(frozen=True)
class Control:
    """One row of the table `controls`.

    Attributes:
        name: What was read.
        auroc, low, high: AUROC of held-out entities with its 95 % interval: bootstrap over entities; for random sets
            the median and the middle 95 % of the sets.
        n_readings: Latents or dimensions in it.
        detail: How it was made.
    """

    name: str
    auroc: float
    low: float
    high: float
    n_readings: int
    detail: str


@dataclass(frozen=True)
class NameReadings:
    """What the controls read, one row per entity.

    Attributes:
        latents: The SAE's latents.
        acts: Mean activation over the entity's contexts, (n_entities, d_in).
        is_known: (n_entities,) bool.
        kind: Index of the type.
        n_types: Number of types.
        held_out: (n_entities,) bool.
        seed: Of bootstraps and random sets.
    """

    latents: EntityLatents
    acts: np.ndarray
    is_known: np.ndarray
    kind: np.ndarray
    n_types: int
    held_out: np.ndarray
    seed: int

    def heldout(self, scores: np.ndarray) -> Interval:
        """Return the held-out AUROC of a score of every entity, with its interval."""
        rows = np.flatnonzero(self.held_out)
        return auroc_interval(scores[rows], self.is_known[rows], rows, seed=self.seed)

    def fitted(self, x: np.ndarray, c: float | None = None) -> np.ndarray:
        """Return the scores of every entity by a ridge logistic regression on the mining half."""
        return fitted_scores(x, self.is_known, ~self.held_out, c)[1]

    def penalty(self, x: np.ndarray) -> float:
        """Return the inverse strength of the penalty that cross-validates best on the mining half."""
        return mining_penalty(x, self.is_known, ~self.held_out)

    def scores(self, rows: np.ndarray, latents: EntityLatents | None = None) -> Separation:
        """Return the scores of the SAE's latents (or of other readings) on some of the entities."""
        read = self.latents if latents is None else latents
        return separation(read.take(rows), self.is_known[rows], self.kind[rows], self.n_types)


def controls(
    data: NameReadings, mining: Separation, chosen: dict[str, list[int]], rule: SelectionRule
) -> list[Control]:
    """Return all controls of one SAE.

    Args:
        data: The readings.
        mining: Scores of the SAE's latents on the mining half.
        chosen: The selected latents; sets of the same size are drawn, of `top` where none was selected.
        rule: The selection rule, for the residual dimensions.
    """
    # Controls read as many latents or dimensions as were selected: more readings alone give a higher AUROC.
    size = len(together(chosen)) or rule.top
    best = int(np.argmax(np.maximum(mining.maxmin_known, mining.maxmin_unknown)))
    # Latents that are silent at names would only make the random sets look weak.
    fires = np.flatnonzero(np.diff(data.latents.value[~data.held_out].tocsc().indptr) > 0)
    makers: list[tuple[str, int, str, Callable[[], np.ndarray]]] = [
        ("best latent", 1, f"latent {best}, largest MaxMin in either direction", lambda: _one(data, best)),
        (
            "all latents",
            len(fires),
            "every latent that fires at a mining name",
            lambda: data.fitted(readings(data.latents.value, fires.tolist())),
        ),
        (
            "difference of means",
            1,
            "mean known minus mean unknown activation as a direction",
            lambda: data.acts @ _mean_gap(data),
        ),
    ]
    found = [_row(name, data.heldout(make()), n, detail) for name, n, detail, make in makers]
    return [*found, _residual(data, size, rule), _random(data, fires, size)]


def _row(name: str, interval: Interval, n: int, detail: str) -> Control:
    return Control(name, interval.value, interval.low, interval.high, n, detail)


def _one(data: NameReadings, latent: int) -> np.ndarray:
    """Return one latent's value as a score, the sign from the mining half."""
    value = readings(data.latents.value, [latent])[:, 0]
    # The sign, too, is chosen on the mining half.
    return value if auroc(value[~data.held_out], data.is_known[~data.held_out]) >= 0.5 else -value


def _mean_gap(data: NameReadings) -> np.ndarray:
    mining = ~data.held_out
    return data.acts[mining & data.is_known].mean(0) - data.acts[mining & ~data.is_known].mean(0)


def residual_readings(acts: np.ndarray, mining: np.ndarray) -> EntityLatents:
    """Return every dimension of the activations as two latents: above and below its mean over the mining entities.

    A dimension "fires" for an entity where its mean activation is above (or below) that mean; (n_entities, 2 d_in).
    """
    gap = acts - acts[mining].mean(0)
    value = csr_array(np.concatenate([np.maximum(gap, 0), np.maximum(-gap, 0)], axis=1))
    fires = value.copy()
    fires.data = np.ones_like(fires.data)
    return EntityLatents(fires, value)


def _residual(data: NameReadings, size: int, rule: SelectionRule) -> Control:
    """Mine the dimensions of the residual stream as if they were latents, and score as many of them."""
    found = residual_readings(data.acts, ~data.held_out)
    scores = data.scores(~data.held_out, found)
    q = q_values(scores.p_value)
    # Without limits, so that the control has as many readings as the selection, whatever they score.
    anything = replace(rule, top=size, min_separation=-np.inf, max_q=1.0)
    allowed = np.ones(len(q), dtype=bool)
    both = select(scores, q, allowed, anything)
    strength = np.maximum(scores.maxmin_known, scores.maxmin_unknown)
    best = sorted(set(together(both)), key=lambda j: -strength[j])[:size]
    passing = len(together(select(scores, q, allowed, replace(rule, top=len(q)))))
    detail = f"dimensions above or below their mean, mined like latents; {passing} of {len(q)} pass the rule"
    return _row("residual dimensions", data.heldout(data.fitted(readings(found.value, best))), len(best), detail)


def _random(data: NameReadings, fires: np.ndarray, size: int) -> Control:
    """Score random sets of latents that fire at mining names."""
    generator = rng("controls.latents", data.seed)
    size = min(size, len(fires))
    values, penalty = [], None  # the first set's penalty serves all
    for _ in range(N_RANDOM_SETS if size else 0):
        drawn = readings(data.latents.value, generator.choice(fires, size, replace=False).tolist())
        penalty = data.penalty(drawn) if penalty is None else penalty
        scores = data.fitted(drawn, penalty)
        values.append(auroc(scores[data.held_out], data.is_known[data.held_out]))
    middle = Interval(float(np.percentile(values, 50)), *central_range(values)) if values else NO_INTERVAL
    detail = f"{N_RANDOM_SETS} draws among the {len(fires):,} latents that fire at a mining name"
    return _row("random latents", middle, size, detail)
