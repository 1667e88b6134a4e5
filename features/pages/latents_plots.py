"""Figures of `latents.html` other than scatter plots: types, permutation null, gate, blocks, steering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from features.analysis.causal_results import HookPointGate, SteeringCurve
from features.pages import plots
from features.pages.plots import (
    CARD,
    FAINT,
    INK,
    KNOWN,
    LINE,
    MUTED,
    TARGET,
    UNKNOWN,
    bare,
    is_number,
    percent,
    render,
    shorten,
)
from features.stats.intervals import wilson
from sae_train.intervals import Interval

CONDITION_NAMES = {
    "clean": "as it is",
    "reconstruction": "SAE reconstruction",
    "selected": "selected latents unknown",
    "random": "as many random latents",
    "latents": "all latents unknown",
    "error": "SAE error swapped",
    "mean difference": "difference of means",
    "residual": "all of it swapped",
    "last residual": "… at the last token only",
}
_COLOURS = {"clean": INK, "selected": KNOWN, "latents": KNOWN, "residual": UNKNOWN, "last residual": UNKNOWN}


def type_bars(
    key: str,
    name: str,
    types: Sequence[str],
    known: Sequence[float],
    unknown: Sequence[float],
    counts: tuple[Sequence[int], Sequence[int]],
) -> str:
    """Return, for one latent, how often it fires at known and at unknown names of each type, with 95 % intervals.

    Args:
        key: Unique in the page.
        name: Of the latent.
        types: Of names.
        known, unknown: Shares by type; NaN where there are no such names.
        counts: Known and unknown names of each type, for the (Wilson) intervals.
    """

    def draw(ax: Axes) -> None:
        rows = np.arange(len(types))[::-1]
        sides = ((0.19, known, counts[0], KNOWN), (-0.19, unknown, counts[1], UNKNOWN))
        for offset, values, numbers, colour in sides:
            for row, value, n in zip(rows, values, numbers, strict=True):
                shown = is_number(value)
                ax.barh(row + offset, value if shown else 0.0, height=0.34, color=colour)
                low, high = wilson(value * n, n) if shown else (0.0, 0.0)
                ax.plot([low, high], [row + offset] * 2, color=INK, linewidth=1.1, alpha=0.7)
                text = percent(value) if shown else "no such names"
                ax.text(
                    max(value, high) + 0.015 if shown else 0.015, row + offset, text, va="center", color=MUTED, size=9.5
                )
        ax.set(xlim=(0, 1.2), ylim=(-0.6, len(types) - 0.4))
        ax.set_yticks(rows, [shorten(t, 18) for t in types])
        ax.set_xticks([])
        bare(ax, "bottom", "left")
        ax.axvline(0, color=LINE, linewidth=1)

    pairs = zip(types, known, unknown, strict=True)
    spoken = "; ".join(f"{t}: known {percent(k)}, unknown {percent(u)}" for t, k, u in pairs)
    return render(
        key,
        f"{name}, share of held-out names at which it fires. {spoken}",
        (3.4, 0.3 + 0.5 * len(types)),
        draw,
    )


def gate_bars(key: str, found: HookPointGate) -> str:
    """Return recall under every condition of one hook point, with intervals."""
    names = [n for n in CONDITION_NAMES if n == "clean" or n in found.recall]
    intervals = [found.interval(n) for n in names]

    def draw(ax: Axes) -> None:
        rows = np.arange(len(names))[::-1]
        for row, name, interval in zip(rows, names, intervals, strict=True):
            ax.barh(row, interval.value, height=0.6, color=_COLOURS.get(name, FAINT), alpha=0.85)
            ax.plot([interval.low, interval.high], [row, row], color=MUTED, linewidth=1.6)
            ax.text(max(interval.value, interval.high) + 0.02, row, percent(interval.value), size=9.5, va="center")
        ax.set(xlim=(0, 1.18), ylim=(-0.6, len(names) - 0.4))
        ax.set_yticks(rows, [CONDITION_NAMES[n] for n in names])
        ax.set_xticks([])
        bare(ax, "bottom", "left")
        ax.axvline(0, color=LINE, linewidth=1)

    spoken = "; ".join(f"{CONDITION_NAMES[n]} {percent(i.value)}" for n, i in zip(names, intervals, strict=True))
    return render(
        key, f"Recall at {found.hook_point} while the name is: {spoken}", (4.8, 0.4 + 0.36 * len(names)), draw
    )


def block_sweep(blocks: Sequence[HookPointGate]) -> str:
    """Return recall by block while the whole activation at the name is another entity's."""
    x = np.arange(len(blocks))
    names = [n for n in ("residual", "last residual") if n in blocks[0].recall]

    def draw(ax: Axes) -> None:
        ax.axhline(float(blocks[0].clean.mean()), color=FAINT, linewidth=1.2, linestyle=(0, (1, 2)))
        for name, style in zip(names, ("-", "--"), strict=False):
            intervals = [b.interval(name) for b in blocks]
            ax.fill_between(x, [i.low for i in intervals], [i.high for i in intervals], color=UNKNOWN, alpha=0.12, lw=0)
            ax.plot(x, [i.value for i in intervals], style, color=UNKNOWN, marker="o", markersize=5)
        ax.set(ylim=(-0.04, 1.06), xlabel="block")
        shown = list(range(0, len(blocks), -(-len(blocks) // 12)))
        ax.set_xticks(shown, [blocks[i].hook_point.removeprefix("layers.") for i in shown])
        plots.percent_axis(ax.yaxis)
        ax.tick_params(length=0, labelcolor=MUTED)

    spoken = "; ".join(f"{b.hook_point} {percent(b.interval('residual').value)}" for b in blocks)
    return render("gate-blocks", f"Recall while the name's activation is swapped, by block: {spoken}", (4.8, 2.9), draw)


def null_histogram(key: str, direction: str, null: Sequence[float] | np.ndarray, observed: float) -> str:
    """Return the largest MaxMin of every label shuffle, and the one of the real labels."""
    values = np.asarray(null, dtype=float)
    colour = KNOWN if direction == "known" else UNKNOWN

    def draw(ax: Axes) -> None:
        low, high = min(values.min(), observed, 0.0), max(values.max(), observed)
        margin = 0.12 * max(high - low, 0.05)
        bins = np.linspace(low, values.max() + 1e-6, 16)
        counts = ax.hist(values, bins=bins.tolist(), color=FAINT, edgecolor=CARD)[0]
        top = float(np.max(counts))
        ax.plot([observed, observed], [0, top], color=colour, linewidth=2.4)
        near_right = observed > (low + high) / 2
        ax.annotate(
            f"real labels {observed:.2f}",
            (observed, top),
            xytext=(-6 if near_right else 6, -2),
            textcoords="offset points",
            ha="right" if near_right else "left",
            va="top",
            color=colour,
            weight="bold",
            size=10,
            gid="halo",
        )
        ax.set(xlim=(low - margin, high + margin), ylim=(0, top * 1.12), xlabel="largest MaxMin separation")
        ax.set_yticks([])
        ax.tick_params(length=0, labelcolor=MUTED)
        bare(ax, "left")

    share = float((values >= observed).mean())
    text = f"Largest MaxMin for {direction} names in {len(values)} shuffles of the labels, at most {values.max():.2f}. "
    return render(key, f"{text}With the real labels {observed:.2f}; reached by {percent(share)}.", (4.2, 2.5), draw)


def steering_lines(key: str, curves: Sequence[SteeringCurve]) -> str:
    """Return right answers and refusals by strength, selected latents beside random ones."""

    def draw(ax: Axes) -> None:
        for curve in curves:
            x = np.arange(len(curve.strengths))
            for verdict, colour in (("right", KNOWN), ("refusal", TARGET)):
                intervals = curve.intervals(verdict)
                style = "-" if curve.kind == "selected" else ":"
                if curve.kind == "selected":
                    _band(ax, x, intervals, colour)
                ax.plot(x, [i.value for i in intervals], style, color=colour, marker="o", markersize=4.5)
            ax.set_xticks(x, [f"{s:g}×" for s in curve.strengths])
        ax.set(ylim=(-0.04, 1.06), xlabel="multiples of the mean active value")
        plots.percent_axis(ax.yaxis)
        ax.tick_params(length=0, labelcolor=MUTED)

    spoken = "; ".join(
        f"{c.kind}: right {', '.join(percent(i.value) for i in c.intervals('right'))}, "
        f"refused {', '.join(percent(i.value) for i in c.intervals('refusal'))}"
        for c in curves
    )
    return render(key, f"Answers by strength. {spoken}", (4.6, 2.9), draw)


def _band(ax: Axes, x: np.ndarray, intervals: Sequence[Interval], colour: str) -> None:
    """Shade between the ends of the intervals."""
    if all(is_number(i.low) for i in intervals):
        ax.fill_between(x, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.12, lw=0)
