"""Figures of the HTML pages: matplotlib -> inline SVG. One small function per figure.

The colours below are names for the page's CSS variables: a figure follows the page into dark mode and onto paper.
Figures are small (one idea each) and laid out by the page, so that their text stays readable on a phone. Text stays
text. Same input, same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE, FAINT, CARD = "#16202c", "#566273", "#dde2e8", "#9aa5b1", "#fefefe"
KNOWN, UNKNOWN, TARGET = "#0b65a8", "#bd5509", "#a3217f"
OTHERS = ("#2b7a3e", "#5a4fb0", "#7d6512", "#0d7f86")  # further models beside the one a page is about
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    FAINT: "faint",
    CARD: "card",
    KNOWN: "known",
    UNKNOWN: "unknown",
    TARGET: "target",
    **{colour: f"other-{i}" for i, colour in enumerate(OTHERS, start=1)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sae-workbench",
    "text.parse_math": False,  # a name may hold a dollar sign
    "axes.unicode_minus": True,
    "font.size": 11.0,
    "axes.titlesize": 11.5,
    "axes.labelsize": 11.0,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}
PNG_DPI = 160
_beside: ContextVar[Path | None] = ContextVar("figures_beside", default=None)
MAX_DOTS = 3000  # in one scatter; more only make the page heavy
NBSP = "\u00a0"


Number: TypeAlias = float | int | None  # JSON has both, and null where nothing was measured


_DOT: Any = {"markersize": 8.5, "markeredgewidth": 1.8}
_BAND: Any = {"height": 0.62, "alpha": 0.35, "zorder": 1}


@dataclass(frozen=True)
class Mark:
    """A point that is named: where it lies, what it is called, which colour it has."""

    x: float
    y: float
    label: str
    colour: str


@dataclass(frozen=True)
class Series:
    """One figure per row with its interval; NaN or None is left out.

    Attributes:
        values, lows, highs: One entry per row.
        colour: One of this module's colours.
        filled: A filled dot, else a hollow one.
    """

    values: Sequence[Number]
    lows: Sequence[Number]
    highs: Sequence[Number]
    colour: str
    filled: bool = True


def percent(value: Number) -> str:
    r"""Return a share as a percentage with at most one decimal; a dash where there is none.

    Example:
        >>> percent(0.5), percent(0.9964), percent(None)
        ('50\xa0%', '99.6\xa0%', '–')
    """
    if not is_number(value):
        return "–"
    share = float(value)
    if 0 < share < 0.0005:
        return f"<0.1{NBSP}%"
    if 0.9995 <= share < 1:
        return f">99.9{NBSP}%"
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{'0' if text == '-0' else text}{NBSP}%"


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number, which NaN, infinity, None and text are not."""
    return isinstance(value, int | float | np.number) and bool(np.isfinite(float(value)))


def render(key: str, label: str, size: tuple[float, float], draw: Callable[[Axes], Mapping[str, str] | None]) -> str:
    """Draw one figure and return its SVG, to be put inside a page.

    Args:
        key: Unique in the page: the figure's ids begin with it.
        label: What it shows, in words, for screen readers.
        size: Width and height in inches; the page scales it.
        draw: Draws on the axes it is given; may return hover texts by group id.
    """
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        titles = draw(figure.subplots()) or {}
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        figure.set_layout_engine("none")  # what was laid out stays: to do it again takes half of each further save
        _save_beside(figure, key)
    return _embed(out.getvalue(), key, label, titles)


@contextmanager
def saved_beside(folder: Path | None) -> Iterator[None]:
    """Leave every figure that is rendered inside as `<key>.svg` and `<key>.png` in a folder too; None leaves none."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    token = _beside.set(folder)
    try:
        yield
    finally:
        _beside.reset(token)


def _save_beside(figure: Figure, key: str) -> None:
    """Write a figure on its own, on white paper."""
    folder = _beside.get()
    if folder is None:
        return
    figure.savefig(folder / f"{key}.svg", format="svg", facecolor="white", metadata={"Date": None})
    figure.savefig(folder / f"{key}.png", format="png", facecolor="white", dpi=PNG_DPI)


def _embed(svg: str, key: str, label: str, titles: Mapping[str, str]) -> str:
    """Make matplotlib's file a part of a page: own ids, the page's font and colours, a name for screen readers."""
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index(">", svg.index("<svg")) + 1 :], flags=re.S)
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.S)
    for gid, title in titles.items():
        body = body.replace(f'<g id="{gid}">', f"<g><title>{escape(title)}</title>", 1)
    body = re.sub(r'<g id="[^"]*">', "<g>", body.replace('<g id="halo">', '<g class="halo">'))
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{key}-", body).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r" transform=\"rotate\(-0 [^)]*\)\"", "", body)
    body = re.sub(r"\s*\n\s*", " ", body)
    for colour, name in _VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    start = f'<svg class="figure" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}"'
    return f'{start} style="max-width:{float(width) * 1.75:.0f}px">{body.strip()}'


def standing_alone(svg: str) -> str:
    """Return a figure for a place without the pages' style sheet, such as a notebook: it names its colours itself."""
    colours = ";".join(f"--{name}:{colour}" for colour, name in _VARIABLES.items())
    return f'<div style="{colours};max-width:36rem;background:{CARD}">{svg}</div>'


def percent_axis(axis: Any, ticks: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)) -> None:
    """Label an axis of shares in percent."""
    axis.set_ticks(list(ticks), [f"{100 * t:.0f} %" for t in ticks])


def bare(ax: Axes, *sides: str) -> None:
    """Remove spines and tick marks."""
    for side in sides:
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return the heights moved apart to at least `gap`, order and centre kept."""
    placed = np.array(heights, dtype=float)
    order = np.argsort(placed, kind="stable")
    for _ in range(60):
        for low, high in zip(order[:-1], order[1:], strict=True):
            lack = gap - (placed[high] - placed[low])
            if lack > 1e-9:
                placed[low] -= lack / 2
                placed[high] += lack / 2
    return list(placed)


def _labels(ax: Axes, marks: Sequence[Mark]) -> None:
    """Write the labels of marks beside them, apart from each other, towards the middle of the axes."""
    x0, x1 = ax.get_xlim()
    y0, y1 = ax.get_ylim()
    for left in (True, False):
        side = [m for m in marks if (m.x - x0 <= (x1 - x0) * 0.55) == left]
        heights = _spread([m.y for m in side], (y1 - y0) * 0.06)
        step = (x1 - x0) * (0.05 if left else -0.05)
        for mark, height in zip(side, heights, strict=True):
            place = (mark.x + step, height)
            ax.plot([mark.x, place[0]], [mark.y, height], color=mark.colour, linewidth=0.8)
            ax.text(
                *place,
                mark.label,
                color=mark.colour,
                weight="bold",
                ha="left" if left else "right",
                va="center",
                gid="halo",
            )


def frequency_scatter(known: Float[np.ndarray, " n"], unknown: Float[np.ndarray, " n"], marks: Sequence[Mark]) -> str:
    """Return every latent by how often it fires at known names (right) and at unknown names (up); marks are named.

    Latents at the same place are one dot: most of a wide dictionary lies at zero.
    """
    points = _thinned(np.stack([known, unknown], 1))

    def draw(ax: Axes) -> dict[str, str]:
        ax.set(
            xlim=(-0.03, 1.03),
            ylim=(-0.03, 1.03),
            xlabel="fires at known names",
            ylabel="fires at unknown names",
        )
        ax.set_aspect("equal")
        ax.plot([0, 1], [0, 1], color=LINE, linewidth=1.2, zorder=1)
        ax.text(0.985, 0.945, "no difference", color=MUTED, size=9.5, ha="right", va="top", rotation=0)
        ax.plot(*points.T, "o", color=FAINT, alpha=0.55, markersize=4.2, markeredgewidth=0, zorder=2)
        for i, m in enumerate(marks):
            ax.plot(
                [m.x],
                [m.y],
                "o",
                color=m.colour,
                markersize=11,
                markeredgecolor=CARD,
                zorder=4,
                gid=f"mark-{i}",
            )
        _labels(ax, marks)
        for axis in (ax.xaxis, ax.yaxis):
            percent_axis(axis)
        ax.tick_params(length=0, labelcolor=MUTED)
        return {f"mark-{i}": f"{m.label}: known {percent(m.x)}, unknown {percent(m.y)}" for i, m in enumerate(marks)}

    text = f"Scatter of {len(known)} latents: share of known names against share of unknown names at which each fires. "
    named = "; ".join(f"{m.label} known {percent(m.x)}, unknown {percent(m.y)}" for m in marks)
    return render("frequency", text + (f"Selected: {named}." if named else "None is selected."), (5.2, 5.0), draw)


def shrinkage_scatter(mining: Float[np.ndarray, " n"], heldout: Float[np.ndarray, " n"], marks: Sequence[Mark]) -> str:
    """Return separation on the half that was searched (right) against the half kept aside (up); marks are named."""
    points = _thinned(np.stack([mining, heldout], 1))

    def draw(ax: Axes) -> None:
        reach = max(0.3, float(np.abs(points).max(initial=0.0)), *(max(abs(m.x), abs(m.y)) for m in marks)) * 1.08
        ax.plot([-reach, reach], [-reach, reach], color=LINE, linewidth=1.2, zorder=1)
        ax.axhline(0, color=LINE, linewidth=0.8)
        ax.axvline(0, color=LINE, linewidth=0.8)
        ax.plot(*points.T, "o", color=FAINT, alpha=0.55, markersize=4, markeredgewidth=0, zorder=2)
        for mark in marks:
            ax.plot([mark.x], [mark.y], "o", color=mark.colour, markersize=10, markeredgecolor=CARD, zorder=4)
        ax.set(
            xlim=(-reach, reach),
            ylim=(-reach, reach),
            xlabel="on the searched half",
            ylabel="on the held-out half",
        )
        _labels(ax, marks)
        ax.set_aspect("equal")
        ax.locator_params(nbins=5)
        ax.tick_params(length=0, labelcolor=MUTED)
        bare(ax, "left", "bottom")

    named = "; ".join(f"{m.label} {m.x:.2f} and {m.y:.2f}" for m in marks)
    return render("shrinkage", f"Separation of every latent on both halves of the names. {named}", (4.4, 4.2), draw)


def interval_rows(
    key: str,
    label: str,
    rows: Sequence[str],
    series: Sequence[Series],
    *,
    bands: Sequence[tuple[Number, Number]] | None = None,
    reference: float = 0.5,
) -> str:
    """Return one line per row: dots with 95 % intervals, over an optional band (what chance alone gives).

    Args:
        key: Unique in the page.
        label: What it shows, in words.
        rows: Name of each row.
        series: Figures of each row.
        bands: Low and high of each row's band.
        reference: Where a dotted line is drawn.
    """
    numbers = [v for s in series for v in (*s.values, *s.lows, *s.highs)] + [v for b in bands or () for v in b]
    low = min([0.45, *(v for v in numbers if is_number(v))])

    def draw(ax: Axes) -> None:
        heights = np.arange(len(rows))[::-1].astype(float)
        ax.set(xlim=(max(0.0, low) - 0.03, 1.1), ylim=(-0.55, len(rows) - 0.45))
        ax.hlines(heights, *ax.get_xlim(), color=LINE, linewidth=0.8, zorder=0)
        ax.axvline(reference, color=FAINT, linewidth=1.2, linestyle=(0, (1, 2)), zorder=1)
        for height, (a, b) in zip(heights, bands or (), strict=bool(bands)):
            if is_number(a) and is_number(b):
                ax.barh(height, b - a, left=a, color=FAINT, **_BAND)
        for index, one in enumerate(series):
            shift = 0.0 if len(series) == 1 else 0.17 * (1 - 2 * index / (len(series) - 1))
            _dots(ax, one, heights + shift)
        ax.set_yticks(heights, [shorten(r, 26) for r in rows])
        ax.set_xticks([t for t in (0, 0.25, 0.5, 0.75, 1) if t >= ax.get_xlim()[0]])
        bare(ax, "left", "bottom")

    return render(key, label, (4.8, 0.75 + 0.62 * len(rows)), draw)


def _dots(ax: Axes, one: Series, heights: Float[np.ndarray, " n"]) -> None:
    """Draw a series of dots with their intervals and values."""
    for value, low, high, height in zip(one.values, one.lows, one.highs, heights, strict=True):
        if not is_number(value):
            continue
        if is_number(low) and is_number(high):
            ax.plot([low, high], [height, height], color=one.colour, linewidth=2.2, zorder=2)
        face = one.colour if one.filled else CARD
        ax.plot([value], [height], "o", color=face, markeredgecolor=one.colour, zorder=3, **_DOT)
        right = max(v for v in (value, high) if is_number(v))
        place: Any = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "size": 9.5}
        ax.annotate(_two_digits(value), (right, height), color=one.colour, gid="halo", **place)


def _thinned(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """Return one point per place, on the finest of three grids that leaves at most `MAX_DOTS`, if one does."""
    finite, kept = points[np.isfinite(points).all(1)], points[:0]
    for steps in (200, 100, 50):
        kept = np.unique(np.round(finite * steps) / steps, axis=0)
        if len(kept) <= MAX_DOTS:
            break
    return kept


def _two_digits(value: float) -> str:
    """Return two digits, three where two would claim a perfect 1."""
    text = f"{value:.2f}"
    return f"{value:.3f}" if text == "1.00" and value < 1 else text


def shorten(text: str, most: int) -> str:
    """Cut a label that would push the figure aside."""
    return text if len(text) <= most else text[: most - 1] + "…"
