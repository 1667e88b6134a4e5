"""Figures that join much into one, as frozen dataclasses: the matched null, the depth, what a crosscoder tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from features.stats.probe import Interval


@dataclass(frozen=True)
class GroupStatistic:
    """One statistic of the targets at one place, beside the same of the null groups.

    Attributes:
        value: Of the targets.
        low, high: 2.5 % and 97.5 % quantile of the null groups'.
        z: The value in standard deviations of the null groups', 0 their mean.
        p: Share of null groups of which *any* statistic at *any* place deviates as far, in either direction.
    """

    value: float
    low: float
    high: float
    z: float
    p: float


@dataclass(frozen=True)
class MatchedPlace:
    """One place.

    Attributes:
        remaining: How far the targets lie from never-known (0) towards known entities (1); the interval is what the
            null groups' deviations leave open.
        detectable: The smallest such share that would have been outside in 80 % of groups as large as the targets; NaN
            where known and unknown entities cannot be told apart.
        statistics: By name; see `evaluations/group_statistics.py`.
    """

    remaining: Interval
    detectable: float
    statistics: dict[str, GroupStatistic] = field(default_factory=dict)


@dataclass(frozen=True)
class MatchedNull:
    """The targets beside matched groups of never-known entities, all places together.

    Attributes:
        p: Familywise p, two-sided, by the history that fits the targets best.
        n_targets, n_candidates: Targets, and never-known entities the null groups are drawn from with them.
        n_groups: Null groups drawn.
        history: The history of the candidates that fit best.
        p_by_history: The p by every history that the targets could have.
        matched: What targets and null groups agree in, in words.
        place, statistic: Where the targets deviate most, and in what.
        z: How far, in standard deviations of the null groups.
        detectable: The median of the places' `detectable`.
        places: By name.
    """

    p: float
    n_targets: int
    n_candidates: int
    n_groups: int
    history: str
    place: str
    statistic: str
    z: float
    detectable: float
    matched: tuple[str, ...] = ()
    p_by_history: dict[str, float] = field(default_factory=dict)
    places: dict[str, MatchedPlace] = field(default_factory=dict)

    def towards_known(self, level: float) -> dict[str, MatchedPlace]:
        """Return the places where the targets lie towards known entities, the familywise p below a level."""
        return {
            name: place
            for name, place in self.places.items()
            if math.isfinite(place.remaining.value)
            and (known := place.statistics["known direction"]).z > 0
            and known.p < level
        }


@dataclass(frozen=True)
class DepthPart:
    """One part.

    Attributes:
        depth: From 0 to 1, with its interval.
        weight: Of it, all parts that could be measured together 1 or less.
        before, after, control: What it was scaled by.
    """

    depth: Interval
    weight: float
    before: float
    after: float
    control: float


@dataclass(frozen=True)
class Depth:
    """How deep a removal goes.

    Attributes:
        score: From 0 to 1, with its interval.
        parts: By name.
        not_measured: Parts that this audit has not, or that bring nothing out of the original model.
    """

    score: Interval
    parts: dict[str, DepthPart] = field(default_factory=dict)
    not_measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class CrosscoderLatent:
    """One latent of a crosscoder, and at which names it fires.

    Attributes:
        latent: Its number.
        kind: `shared`, `turned`, `only_before`, `only_after` or `between`, by its decoder rows.
        relative_norm: 0 only before, 1/2 both, 1 only after.
        cosine: Of its two decoder directions.
        rate_targets, rate_kept, rate_unknown: Share (0 to 1) of contexts at whose name it fires.
    """

    latent: int
    kind: str
    relative_norm: float
    cosine: float
    rate_targets: float
    rate_kept: float
    rate_unknown: float


@dataclass(frozen=True)
class CrosscoderFigures:
    """What a crosscoder of both models says about a removal.

    Attributes:
        sae, hook_point: Which one.
        fvu: Variance of both models' activations on general text that it leaves unexplained.
        latents_by_kind: Latents that fire on general text or at names, by kind.
        firings_by_kind: Shares (0 to 1) of the kinds in all firings, by where: `targets`, `kept`, `unknown`, `text`.
        latents: Those that fire more often at the targets than at kept names, the largest difference first.
    """

    sae: str
    hook_point: str
    fvu: float
    latents_by_kind: dict[str, int] = field(default_factory=dict)
    firings_by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    latents: tuple[CrosscoderLatent, ...] = ()
