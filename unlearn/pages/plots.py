"""Figures of the audit page: before/after bars, the walk, shares. Frame and colours: features/pages/plots.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from features.pages.plots import (
    CARD,
    INK,
    KNOWN,
    LINE,
    MUTED,
    TARGET,
    UNKNOWN,
    Number,
    bare,
    is_number,
    percent,
    percent_axis,
    render,
    shorten,
)
from features.stats.probe import Interval
from unlearn.auditing.attack_results import CurvePoint
from unlearn.auditing.audit_figures import Figure, Points, Walk

MAX_CLOUD = 900  # points of one background cloud; more of them only make the page heavy
CROWD = 8  # targets above this are drawn small and thin
ROOM = 0.35  # how far another model's points may widen a panel, in its widths: a broken one lies anywhere
PALE = 0.32  # opacity of what was before


@dataclass(frozen=True)
class Walked:
    """Where another model has the targets.

    Attributes:
        name: Of the model.
        points: Rows of (x, y), one per target.
        colour: One of the page's.
        marker: matplotlib's letter.
    """

    name: str
    points: Points
    colour: str
    marker: str


def before_after(
    key: str,
    name: str,
    figure: Figure,
    *,
    colour: str,
    threshold: Number = None,
    chance: Number = None,
) -> str:
    """Return two bars, before (pale) and after, each with its interval.

    Args:
        key: Unique in the page.
        name: What is measured.
        figure: Before and after.
        colour: Of both bars.
        threshold: Drawn dashed.
        chance: Drawn dotted.
    """

    def draw(ax: Axes) -> None:
        _bar(ax, 0, "before", figure.before, colour)
        _bar(ax, 1, "after", figure.after, colour)
        if is_number(threshold):
            ax.axhline(threshold, color=INK, linewidth=1.1, linestyle=(0, (4, 2.5)), zorder=4)
        if is_number(chance):
            ax.axhline(chance, color=MUTED, linewidth=1.1, linestyle=(0, (1, 2)), zorder=4)
        ax.set(xlim=(-0.5, 1.5), ylim=(0, 1.02), xticks=[], yticks=[])
        bare(ax, "left")

    both = (("before", figure.before), ("after", figure.after))
    spoken = "; ".join(
        f"{when} {percent(own.value)}, interval {percent(own.low)} to {percent(own.high)}" for when, own in both
    )
    return render(key, f"{name}: {spoken}", (2.15, 2.5), draw)


def _bar(ax: Axes, x: int, when: str, measured: Interval, colour: str) -> None:
    """Draw one bar of two; its value stands below it, out of the way of intervals and limits."""
    value, low, high = measured.value, measured.low, measured.high
    ax.bar(x, max(value, 0.008) if is_number(value) else 0.0, width=0.66, color=colour, alpha=1.0 if x else PALE)
    if is_number(low) and is_number(high):
        ax.plot([x, x], [low, high], color=INK, linewidth=1.5, zorder=3)
    style: Any = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "top"}
    weight, tone = ("bold", INK) if x else ("normal", MUTED)
    text, size = (percent(value), 13.0) if is_number(value) else ("not measured", 8.5)
    ax.text(x, -0.05, text, size=size, weight=weight, color=tone, **style)
    ax.text(x, -0.17, when, size=10.5, color=MUTED, **style)


def walk(key: str, name: str, panel: Walk, others: Sequence[Walked] = ()) -> str:
    """Return where names lie inside the model: known and unknown ones as clouds, targets with an arrow each.

    Args:
        key: Unique in the page.
        name: The hook point.
        panel: The points; names are shown when pointed at.
        others: Other models, which start from the same `before`: a mark per target, one arrow between the means.
    """
    known, unknown, before, after, names = panel.known, panel.unknown, panel.before, panel.after, panel.names

    def draw(ax: Axes) -> dict[str, str]:
        for cloud, colour in ((known, KNOWN), (unknown, UNKNOWN)):
            rows = np.array(cloud, dtype=float).reshape(-1, 2)[:: max(1, -(-len(cloud) // MAX_CLOUD))]
            ax.plot(*rows.T, "o", color=colour, alpha=PALE, markersize=3.8, markeredgewidth=0, zorder=1)
        frame = _frame([known, unknown, before, after])
        for i, other in enumerate(others):
            _beside(ax, before, other, frame, f"other-{i}")
        _arrows(ax, before, after)
        for axis_x, side, text, colour in ((0, "left", "← like unknown", UNKNOWN), (1, "right", "like known →", KNOWN)):
            ax.text(axis_x, -0.02, text, color=colour, size=9.5, ha=side, va="top", transform=ax.transAxes)
        ax.margins(0.06)
        ax.set(xticks=[], yticks=[])
        bare(ax, "left", "bottom")
        ends = (("from", "before"), ("to", "after"))
        own = {f"{end}-{i}": f"{n}, {when}" for i, n in enumerate(names) for end, when in ends}
        return own | {f"other-{i}": o.name for i, o in enumerate(others)}

    middle = [np.mean([p[0] for p in rows]) if len(rows) else float("nan") for rows in (known, unknown, before, after)]
    spoken = "known names at {:.1f}, unknown ones at {:.1f}, targets before at {:.1f}, after at {:.1f}".format(*middle)
    spoken += "".join(f", by {o.name} at {np.mean([p[0] for p in o.points]):.1f}" for o in others)
    return render(key, f"{name}, along the direction from unknown to known: {spoken}", (3.6, 3.0), draw)


def _frame(groups: Sequence[Points]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest (x, y) that another model's points may have: what is drawn, and a margin."""
    rows = np.array([p for group in groups for p in group], dtype=float).reshape(-1, 2)
    low, high = rows.min(0), rows.max(0)
    return low - ROOM * (high - low), high + ROOM * (high - low)


def _beside(ax: Axes, before: Points, other: Walked, frame: tuple[np.ndarray, np.ndarray], gid: str) -> None:
    """Draw where another model has the targets; what lies outside the frame is drawn on its edge."""
    rows = np.clip(np.array(other.points, dtype=float).reshape(-1, 2), *frame)
    start = np.array(before, dtype=float).reshape(-1, 2)
    arrow = {"arrowstyle": "-|>", "color": other.colour, "linewidth": 1.8, "mutation_scale": 13, "shrinkA": 0}
    ax.annotate("", xy=tuple(rows.mean(0)), xytext=tuple(start.mean(0)), arrowprops=arrow, zorder=5)
    size = 5.5 if len(rows) > CROWD else 8.5
    style: Any = {"color": other.colour, "markeredgecolor": CARD, "markeredgewidth": 0.7}
    ax.plot(*rows.T, other.marker, markersize=size, zorder=4, gid=gid, **style)


def _arrows(ax: Axes, before: Points, after: Points) -> None:
    """Draw every target hollow where it was, filled where it is, and an arrow between."""
    many = len(before) > CROWD
    size = 5.5 if many else 9.0
    line = {"linewidth": 0.7, "alpha": 0.55, "mutation_scale": 7} if many else {"linewidth": 1.6, "mutation_scale": 13}
    arrow = {"arrowstyle": "-|>", "color": TARGET, "shrinkA": 3, "shrinkB": 4, **line}
    for (x0, y0), (x1, y1) in zip(before, after, strict=True):
        ax.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=arrow, zorder=3)
    hollow: Any = {"color": CARD, "markeredgecolor": TARGET, "markeredgewidth": 1.5}
    filled: Any = {"color": TARGET, "markeredgecolor": CARD}
    for end, rows, style in (("from", before, hollow), ("to", after, filled)):
        for i, (x, y) in enumerate(rows):
            ax.plot([x], [y], "D", markersize=size, zorder=4, gid=f"{end}-{i}", **style)


def frac_bars(
    key: str, name: str, rows: Mapping[str, Mapping[str, Number]], colours: Mapping[str, tuple[str, float]]
) -> str:
    """Return one full-width stacked bar per row; `colours` gives colour and opacity of each part, in order."""

    def draw(ax: Axes) -> None:
        heights = range(len(rows))[::-1]
        for height, shares in zip(heights, rows.values(), strict=True):
            left = 0.0
            for part, (colour, alpha) in colours.items():
                value = shares.get(part)
                if is_number(value) and value:
                    _part(ax, height, left, value, colour, alpha)
                    left += value
        ax.set(xlim=(0, 1), ylim=(-0.5, len(rows) - 0.5), xticks=[])
        ax.set_yticks(heights, list(rows))
        bare(ax, "left", "bottom")

    parts = {row: ", ".join(f"{p} {percent(v)}" for p, v in shares.items()) for row, shares in rows.items()}
    spoken = "; ".join(f"{row}: {text}" for row, text in parts.items())
    return render(key, f"{name}. {spoken}", (5.4, 0.3 + 0.62 * len(rows)), draw)


def _part(ax: Axes, height: int, left: float, value: float, colour: str, alpha: float) -> None:
    """Draw one part of a stacked bar; its share is written where there is room."""
    ax.barh(height, value, left=left, height=0.62, color=colour, alpha=alpha, edgecolor=CARD, linewidth=1.2)
    if value >= 0.09:
        style: Any = {"ha": "center", "va": "center", "size": 10.5, "weight": "bold"}
        ax.text(left + value / 2, height, percent(value), color=INK if alpha < 0.6 else CARD, **style)


def value_bars(key: str, name: str, rows: Sequence[tuple[str, Number, str, float]]) -> str:
    """Return horizontal bars of shares; a row is (label, value, colour, opacity)."""

    def draw(ax: Axes) -> None:
        heights = range(len(rows))[::-1]
        for height, (_, value, colour, alpha) in zip(heights, rows, strict=True):
            length = value if is_number(value) else 0.0
            ax.barh(height, length, height=0.6, color=colour, alpha=alpha)
            text = percent(value) if is_number(value) else "not measured"
            ax.text(length + 0.015, height, text, va="center", size=10.5)
        ax.axvline(0, color=LINE, linewidth=1)
        ax.set(xlim=(0, 1.16), ylim=(-0.55, len(rows) - 0.45), xticks=[])
        ax.set_yticks(heights, [shorten(row[0], 30) for row in rows])
        bare(ax, "left", "bottom")

    spoken = "; ".join(f"{row[0]} {percent(row[1])}" for row in rows)
    return render(key, f"{name}. {spoken}", (5.4, 0.3 + 0.46 * len(rows)), draw)


def attack_curves(key: str, name: str, curve: Sequence[CurvePoint]) -> str:
    """Return recall over the steps of an attack: a line per step size for targets, dashed for never-known names.

    Args:
        key: Unique in the page.
        name: What it shows, in words.
        curve: Its points; step 0 belongs to every step size.
    """
    start = [p for p in curve if not p.step]
    rates = sorted({p.lr for p in curve if p.step})
    last = {rate: [p.target for p in curve if p.lr == rate][-1] for rate in rates}

    def draw(ax: Axes) -> None:
        for index, rate in enumerate(rates):
            points = [*start, *(p for p in curve if p.lr == rate)]
            steps, width = [p.step for p in points], 1.2 + 0.9 * index
            ax.plot(steps, [p.target for p in points], color=TARGET, linewidth=width, marker="o", markersize=3.5)
            ax.plot(steps, [p.control for p in points], color=MUTED, linewidth=width, linestyle=(0, (3, 2)))
            ax.annotate(f"{rate:g}", (steps[-1], points[-1].target), (5, -3), textcoords="offset points", color=MUTED)
        ax.set(ylim=(-0.03, 1.03), xlabel="steps of lessons")
        percent_axis(ax.yaxis)
        bare(ax, "left", "bottom")

    spoken = "; ".join(f"step size {r:g}: {percent(last[r])}" for r in rates)
    return render(key, f"{name}, at the end {spoken}", (4.6, 2.9), draw)
