"""Depth: how far a removal goes, from 0 (as before) to 1 (as names that were never known), beside the verdict.

    depth = sum_i w_i d_i / sum_i w_i,   d = 1 - clip((after - control) / (before - control), 0, 1)

over the parts that were measured: `after` of the targets, `control` of never-known entities in the same model and under
the same attack, `before` of the targets in the original model. A part that brings nothing out of the original (before
less than `LEAST_GAP` above control) tells nothing and is left out. Where more is left every part falls, and so does it.

What the model says of itself (recall) is no part: silence is not depth. Nor is the price: read it beside loss and
gibberish, since a destroyed model knows nothing either. The interval takes the same end of every part at once: it is
wide on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from features.stats.probe import Interval
from unlearn.auditing.attack_results import PROBABILITY
from unlearn.auditing.audit_figures import ReadOff
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.joint_figures import Depth, DepthPart

LEAST_GAP = 0.1  # a share of questions
LEAST_WEIGHT = 0.5  # of all parts; with less there is no depth
DAMAGE = ("quantize", "prune", "finetune")


@dataclass(frozen=True)
class _Scale:
    """What a part is made of."""

    before: float
    after: Interval
    control: float


def depth_of(found: Findings) -> Depth | None:
    """Return the depth by an audit's own figures; None where too few parts were measured.

    Args:
        found: A report, an old one as well, or what one is to be made of.
    """
    parts: dict[str, DepthPart] = {}
    for name, (weight, read) in PARTS.items():
        part = _part(read(found), weight)
        if part is not None:
            parts[name] = part
    total = sum(p.weight for p in parts.values())
    if total < LEAST_WEIGHT - 1e-9:
        return None
    ends = np.array([[p.depth.value, p.depth.low, p.depth.high] for p in parts.values()])
    weights = np.array([p.weight for p in parts.values()]) / total
    return Depth(Interval(*(float(v) for v in weights @ ends)), parts, tuple(n for n in PARTS if n not in parts))


def _part(scale: _Scale | None, weight: float) -> DepthPart | None:
    """Return a part; None where it was not measured or the original shows nothing in it."""
    if scale is None or not scale.before - scale.control >= LEAST_GAP or not math.isfinite(scale.after.value):
        return None

    def depth(after: float) -> float:
        return 1.0 - float(np.clip((after - scale.control) / (scale.before - scale.control), 0.0, 1.0))

    ends = Interval(depth(scale.after.value), depth(scale.after.high), depth(scale.after.low))
    return DepthPart(ends, weight, scale.before, scale.after.value, scale.control)


def _attack(*names: str) -> Callable[[Findings], _Scale | None]:
    """Return what reads the attack, of several, that leaves least of the depth."""

    def read(found: Findings) -> _Scale | None:
        scales = []
        for worst in (found.attacks[name].worst for name in names if name in found.attacks):
            scales.append(_Scale(worst.before, worst.target, worst.control.value))
        return _shallowest(scales)

    return read


def _lessons(found: Findings) -> _Scale | None:
    """Read the path of relearning: the highest recall on the way, beside the highest of never-known entities."""
    attack = found.attacks.get("relearn")
    if attack is None or attack.relearning is None:
        return None
    most = {n: h for n, h in attack.relearning.highest.items() if n != PROBABILITY}
    return _shallowest([_Scale(h.before, h.target, h.control.value) for h in most.values()])


def _shallowest(scales: list[_Scale]) -> _Scale | None:
    """Return the one with the smallest depth."""
    parts = [(part.depth.value, i) for i, s in enumerate(scales) if (part := _part(s, 1.0)) is not None]
    return scales[min(parts)[1]] if parts else None


def _ranking(found: Findings) -> _Scale | None:
    """Read how often the true answer comes first."""
    own, control = found.forget.ranking, found.control.ranking
    if own is None:
        return None
    chance = found.ranking_chance if found.ranking_chance is not None else math.nan
    return _Scale(own.before.value, own.after, chance if control is None else control.after.value)


def _read_off(places: Mapping[str, ReadOff]) -> _Scale | None:
    """Read what can be read off at the best place, each of the three at its own: the best of many is luck for all."""
    found = [p for p in places.values() if math.isfinite(p.after.value)]
    if not found:
        return None
    best = max(found, key=lambda p: p.after.value).after
    return _Scale(max(p.before for p in found), best, max(p.control.value for p in found))


def _known_direction(found: Findings) -> _Scale | None:
    """Read how far the targets lie towards known names, at the median place."""
    places = [] if found.matched is None else list(found.matched.places.values())
    rows = [(r.value, r.low, r.high) for p in places if math.isfinite((r := p.remaining).value)]
    return _Scale(1.0, Interval(*(float(v) for v in np.median(rows, axis=0))), 0.0) if rows else None


# The only place where weights are. Set by what the evidence is worth (docs/concepts/audit.md), not fitted to any bench:
# what brings knowledge back counts most, what is read off the inside next, what is said under pressure least.
PARTS: dict[str, tuple[float, Callable[[Findings], _Scale | None]]] = {
    "relearn": (0.25, _lessons),
    "steer-back": (0.20, _attack("steer-back")),
    "prompts": (0.10, _attack("prompts")),
    "sampling": (0.05, _attack("sampling")),
    "damage": (0.05, _attack(*DAMAGE)),
    "ranking": (0.10, _ranking),
    "value probe": (0.10, lambda found: _read_off(found.value_probe)),
    "logit lens": (0.05, lambda found: _read_off(found.logit_lens)),
    "known direction": (0.10, _known_direction),
}
