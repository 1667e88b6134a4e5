"""Figures of the inspection page: norms, dimensions, spectrum, drift. Frame and colours: features/pages/plots.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from features.pages.plots import FAINT, KNOWN, LINE, MUTED, TARGET, bare, percent, render

SIZE = (4.2, 2.9)
MAX_POINTS = 240  # of one line; more only make the page heavy
LOG_ABOVE = 20.0  # a line of norms that reaches further is drawn on a logarithmic axis
_WHOLE = 12.0  # logarithmic axes say 1, 10, 100 up to a ratio of 10^12


def norm_histogram(
    key: str, name: str, edges: Sequence[float], counts: Sequence[int], marks: Sequence[tuple[str, float]]
) -> str:
    """Return how many rows have which norm, on a logarithmic axis; marks are named values such as the median."""

    def draw(ax: Axes) -> None:
        borders = np.array(edges, dtype=float)
        ax.bar(borders[:-1], counts, width=np.diff(borders), align="edge", color=KNOWN, alpha=0.75, linewidth=0)
        ax.set_xscale("log")
        for number, (label, value) in enumerate(marks):
            ax.axvline(value, color=MUTED, linewidth=1.1, linestyle=(0, (1, 2)))
            place: Any = {"xytext": (3, -10 - 13 * number), "textcoords": "offset points", "size": 9.5}
            ax.annotate(label, (value, 1), xycoords=("data", "axes fraction"), color=MUTED, gid="halo", **place)
        ax.set(xlabel="norm of a row", ylabel="rows")
        _plain_log(ax.xaxis)
        _finish(ax)

    spoken = ", ".join(f"{label} {value:.3g}" for label, value in marks)
    return render(key, f"{name}, histogram of row norms: {spoken}", SIZE, draw)


def spectrum_curve(key: str, name: str, fractions: Sequence[float], effective_rank: float) -> str:
    """Return the share of variance the first components explain together, over their number."""
    cumulative = np.cumsum(np.asarray(fractions, dtype=float))
    at = thinned(len(cumulative))

    def draw(ax: Axes) -> None:
        ax.plot(at + 1, cumulative[at], color=KNOWN, linewidth=2)
        ax.axvline(effective_rank, color=TARGET, linewidth=1.2, linestyle=(0, (4, 2.5)))
        is_right = effective_rank**2 > len(cumulative)
        place: Any = {"xytext": (-5 if is_right else 5, 6), "textcoords": "offset points", "size": 9.5}
        place |= {"ha": "right" if is_right else "left", "xycoords": ("data", "axes fraction"), "gid": "halo"}
        ax.annotate(f"effective rank {effective_rank:.1f}", (effective_rank, 0), color=TARGET, **place)
        ax.set(xlim=(1, max(2, len(cumulative))), ylim=(0, 1.03), xlabel="principal components", ylabel="variance")
        ax.set_xscale("log")
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        _plain_log(ax.xaxis)
        _finish(ax)

    first = f"the first explains {percent(cumulative[0])}, effective rank {effective_rank:.1f} of {len(cumulative)}"
    return render(key, f"{name}, cumulative share of variance by principal component: {first}", SIZE, draw)


def variance_curve(key: str, name: str, variance: Sequence[float]) -> str:
    """Return the variance of every dimension, largest first, on logarithmic axes."""
    values = np.sort(np.asarray(variance, dtype=float))[::-1]
    values = values[values > 0]
    at = thinned(len(values))

    def draw(ax: Axes) -> None:
        ax.plot(at + 1, values[at], color=KNOWN, linewidth=2)
        ax.set(xlabel="dimensions, largest first", ylabel="variance", xscale="log", yscale="log")
        _plain_log(ax.xaxis)
        _plain_log(ax.yaxis)
        _finish(ax)

    return render(key, f"{name}, variance by dimension: {values[0]:.3g} down to {values[-1]:.3g}", SIZE, draw)


def dimension_scatter(
    key: str, name: str, mean: Sequence[float], variance: Sequence[float], named: Sequence[int], *, n_labels: int = 2
) -> str:
    """Return every dimension by its mean (right) and standard deviation (up); named ones coloured, some labelled."""
    centre = np.asarray(mean, dtype=float)
    spread = np.sqrt(np.asarray(variance, dtype=float))
    shown = np.unique([*np.linspace(0, len(centre) - 1, 1500).astype(int), *named])

    def draw(ax: Axes) -> dict[str, str]:
        ax.axvline(0, color=LINE, linewidth=1)
        ax.plot(centre[shown], spread[shown], "o", color=FAINT, alpha=0.6, markersize=4, markeredgewidth=0)
        for i in named:
            ax.plot([centre[i]], [spread[i]], "o", color=TARGET, markersize=7, markeredgewidth=0, gid=f"dim-{i}")
        for i in named[:n_labels]:
            place: Any = {"xytext": (0, 7), "textcoords": "offset points", "size": 9.5, "ha": "center"}
            ax.annotate(f"{i}", (centre[i], spread[i]), color=TARGET, weight="bold", gid="halo", **place)
        ax.margins(0.08, 0.14)
        ax.set(xlabel="mean", ylabel="standard deviation")
        ax.set_ylim(bottom=0)
        ax.locator_params(nbins=5)
        _finish(ax)
        return {f"dim-{i}": f"dimension {i}: mean {centre[i]:.3g}, deviation {spread[i]:.3g}" for i in named}

    spoken = "; ".join(f"{i}: mean {centre[i]:.3g}, standard deviation {spread[i]:.3g}" for i in named)
    return render(key, f"{name}, mean and standard deviation of every dimension. Largest: {spoken}", SIZE, draw)


def position_line(key: str, name: str, what: str, labels: Sequence[str], values: Sequence[float]) -> str:
    """Return a figure by bin of positions; `what` names it, and an axis of cosines keeps its 1 in sight."""

    def draw(ax: Axes) -> None:
        places = np.arange(len(labels))
        ax.plot(places, values, "o-", color=KNOWN, linewidth=2, markersize=5)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        ax.set(xlabel="position in the document", ylabel=what)
        if what == "cosine":
            ax.set_ylim(min(0.0, low) - 0.03, 1.05)
        elif low > 0 and high / low > LOG_ABOVE:
            ax.set(yscale="log", ylim=(low / 1.5, high * 1.5))
        else:
            ax.set_ylim(0, high * 1.12 if high > 0 else 1)
        step = -(-len(labels) // 6)
        ax.set_xticks(places[::step], list(labels)[::step])
        if ax.get_yscale() == "log":
            _plain_log(ax.yaxis)
        else:
            ax.locator_params(axis="y", nbins=5)
        _finish(ax)

    spoken = ", ".join(f"{label}: {value:.3g}" for label, value in zip(labels, values, strict=True))
    return render(key, f"{name}, {what} by position. {spoken}", SIZE, draw)


def change_curve(key: str, name: str, change: Float[np.ndarray, " d_in"]) -> str:
    """Return how far the mean of every dimension moved, in standard deviations, largest first."""
    values = np.sort(change[np.isfinite(change)])[::-1]
    at = thinned(len(values))

    def draw(ax: Axes) -> None:
        ax.plot(at + 1, values[at], color=TARGET, linewidth=2)
        ax.set(xlabel="dimensions, largest first", ylabel="move, standard deviations", xscale="log")
        ax.set_ylim(0, float(values[0]) * 1.08 or 1)
        _plain_log(ax.xaxis)
        ax.locator_params(axis="y", nbins=5)
        _finish(ax)

    return render(key, f"{name}, move of the mean by dimension, at most {values[0]:.3g}", SIZE, draw)


def thinned(n: int) -> np.ndarray:
    """Return at most about `MAX_POINTS` places of `range(n)`, dense at the front, as a logarithmic axis shows them.

    Example:
        >>> thinned(5).tolist(), len(thinned(10_000)) <= MAX_POINTS, int(thinned(10_000)[-1])
        ([0, 1, 2, 3, 4], True, 9999)
    """
    if n <= MAX_POINTS:
        return np.arange(n)
    return np.unique(np.geomspace(1, n, MAX_POINTS).round().astype(int)) - 1


def _plain_log(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, three to six of them."""
    low, high = sorted(axis.get_view_interval())
    n_decades = np.log10(high / low) if low > 0 else _WHOLE
    subs = (1.0,) if n_decades > 2 else (1.0, 3.0) if n_decades > 1 else (1.0, 2.0, 5.0)
    if n_decades > 0.7:
        axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    else:
        axis.set_major_locator(FixedLocator(np.linspace(low, high, 5)[1:-1].tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}" if value < 1e5 else f"{value:.0e}"))


def _finish(ax: Axes) -> None:
    """Remove what says nothing."""
    ax.tick_params(length=0, labelcolor=MUTED)
    ax.grid(visible=True, axis="y", color=LINE, linewidth=0.8)
    bare(ax, "left")
