"""Figures of the training page: curves over tokens, activation frequencies. Frame: features/pages/plots.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from features.pages.plots import FAINT, KNOWN, LINE, MUTED, TARGET, bare, percent, render

SIZE = (4.2, 2.7)
MAX_POINTS = 400  # of one curve; more only make the page heavy
LOG_ABOVE = 30.0  # a curve whose largest value is so many times its smallest is drawn on a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """A figure over the tokens of a run.

    Attributes:
        tokens, values: Where it was logged while training.
        heldout_tokens, heldout: The same figure on held-out documents, with low and high ends where there are any.
        lows, highs: Those ends.
        reference: A value to compare with, such as the L0 that is aimed at.
        reference_text: What that is.
    """

    tokens: Sequence[float | int]
    values: Sequence[float | int]
    heldout_tokens: Sequence[float | int] = ()
    heldout: Sequence[float | int] = ()
    lows: Sequence[float | int] = ()
    highs: Sequence[float | int] = ()
    reference: float | None = None
    reference_text: str = ""


def training_curve(key: str, name: str, curve: Curve, *, as_percent: bool = False, from_zero: bool = False) -> str:
    """Return a figure over the tokens of a run: a line, held-out values as dots with intervals.

    Args:
        key: Unique in the page.
        name: What it is, in words.
        curve: What is drawn.
        as_percent: The values are shares.
        from_zero: Zero stays in sight, and the axis is never logarithmic.
    """
    x, y = (np.asarray(v, dtype=float) for v in (curve.tokens, curve.values))
    at = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int)) if len(x) > MAX_POINTS else np.arange(len(x))
    every = np.array([*y, *curve.heldout, *curve.lows, *curve.highs, *filter(None, [curve.reference])], dtype=float)
    every = every[np.isfinite(every)]
    is_log = not from_zero and len(every) > 0 and every.min() > 0 and every.max() / every.min() > LOG_ABOVE

    def draw(ax: Axes) -> None:
        if curve.reference is not None:
            ax.axhline(curve.reference, color=MUTED, linewidth=1.1, linestyle=(0, (1, 2)))
            place: Any = {"xytext": (-2, 5), "textcoords": "offset points", "size": 9.5, "ha": "right", "gid": "halo"}
            ax.annotate(
                curve.reference_text, (1, curve.reference), xycoords=("axes fraction", "data"), color=MUTED, **place
            )
        ax.plot(x[at], y[at], color=KNOWN, linewidth=1.8)
        ends = zip(curve.heldout_tokens, curve.lows, curve.highs, strict=False)
        for where, low, high in ends:
            if np.isfinite([low, high]).all():
                ax.plot([where, where], [low, high], color=TARGET, linewidth=2.2)
        ax.plot(curve.heldout_tokens, curve.heldout, "o", color=TARGET, markersize=6, markeredgewidth=0)
        ax.set(xlabel="tokens", xlim=(0, max([1.0, *x, *curve.heldout_tokens]) * 1.02))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
        ax.locator_params(axis="x", nbins=5)
        if is_log:
            ax.set_yscale("log")
            _log_ticks(ax, as_percent=as_percent)
        else:
            if from_zero and len(every):
                ax.set_ylim(0, float(every.max()) * 1.25 or 1.0)
            ax.locator_params(axis="y", nbins=5)
            ax.yaxis.set_major_formatter(FuncFormatter(_value_text(as_percent)))
        _finish(ax)

    last = f"{name}, from {y[0]:.3g} to {y[-1]:.3g}" if len(y) else name
    spoken = f"; on held-out documents at the end {curve.heldout[-1]:.3g}" if len(curve.heldout) else ""
    return render(key, f"{last} over {tokens_text(float(max([0.0, *x])))} tokens{spoken}", SIZE, draw)


def density_bars(
    key: str,
    log10_edges: Sequence[float | int],
    n_latents: Sequence[int],
    n_never: int,
    *,
    tokens: str = "held-out tokens",
) -> str:
    """Return how many latents fire how often: bars over the share of tokens, logarithmic; `tokens` says of which."""
    edges = np.asarray(log10_edges, dtype=float)
    counts = np.asarray(n_latents, dtype=float)
    used = np.flatnonzero(counts)
    first = int(used[0]) if len(used) else 0

    def draw(ax: Axes) -> None:
        width = np.diff(edges)[first:]
        ax.bar(edges[first:-1], counts[first:], width=width, align="edge", color=KNOWN, alpha=0.8, linewidth=0)
        if n_never:
            ax.bar([edges[first] - 1.6 * width[0]], [n_never], width=width[0], align="edge", color=FAINT, linewidth=0)
        whole = np.arange(np.ceil(edges[first] - 1e-9), 1)
        ticks = ([edges[first] - 1.1 * width[0]] if n_never else []) + list(whole)
        ax.set_xticks(ticks, (["never"] if n_never else []) + [_frac_text(10.0**t) for t in whole])
        ax.set(xlabel=f"share of {tokens} at which a latent fires", ylabel="latents")
        ax.locator_params(axis="y", nbins=5)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        _finish(ax)

    spoken = ", ".join(
        f"{int(n)} from {_frac_text(10.0**low)} to {_frac_text(10.0**high)}"
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        if n
    )
    return render(key, f"Latents by how often they fire: {n_never} never; {spoken}", (5.4, 2.9), draw)


def tokens_text(value: float | int) -> str:
    """Return a number of tokens as an axis shows it.

    Example:
        >>> tokens_text(0), tokens_text(250_000), tokens_text(1_500_000), tokens_text(2e9)
        ('0', '250k', '1.5M', '2B')
    """
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _frac_text(share: float) -> str:
    """Return a power of ten as a percentage, all its zeros shown."""
    return f"{100 * share:.{max(0, int(round(-np.log10(share))) - 2)}f} %"


def _value_text(as_percent: bool) -> Callable[[float, int], str]:
    """Return the labels of a linear axis."""
    return lambda value, _: percent(value) if as_percent else f"{value:,.4g}"


def _log_ticks(ax: Axes, *, as_percent: bool) -> None:
    """Label a logarithmic axis with a few plain numbers."""
    low, high = sorted(ax.get_ylim())
    n_decades = float(np.log10(high / low))
    if n_decades > 1:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if n_decades > 2 else (1.0, 3.0), numticks=6))
    else:
        ax.yaxis.set_major_locator(FixedLocator(np.geomspace(low, high, 5)[1:-1].tolist()))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(_value_text(as_percent)))


def _finish(ax: Axes) -> None:
    """Remove what says nothing."""
    ax.tick_params(length=0, labelcolor=MUTED)
    ax.grid(visible=True, axis="y", color=LINE, linewidth=0.8)
    bare(ax, "left")
