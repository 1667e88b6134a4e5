"""`latents.html`: the page of one analysis. Also the frame and number formats of every HTML page.

Pages are single files: styles, figures and the few lines of script are inside. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from features.analysis.store import HookPointAnalysis, LatentAnalysis
from features.config import SelectionRule
from features.pages import latents_plots, plots
from features.pages.checks_page import checks_view, frac_text, parts_of, with_cards
from features.pages.plots import Mark, Series
from features.stats.selection import DIRECTIONS
from sae_train.intervals import Interval
from sae_train.run.runs import write_text

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = {"known": plots.KNOWN, "unknown": plots.UNKNOWN}  # of the directions
NAMED = 4  # latents per direction that are named in a figure
SHOWN = 4  # latents with a figure of their own


def figure_text(value: object, digits: int = 3) -> str:
    """Return a number as a table shows it, `–` if there is none; small ones keep two digits.

    Example:
        >>> figure_text(0.98765), figure_text(3), figure_text(2.1e-9), figure_text(None)
        ('0.988', '3', '2.1e-09', '–')
    """
    if isinstance(value, str):
        return value
    if not plots.is_number(value):
        return "–"
    number = float(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{number:.1e}" if 0 < abs(number) < 0.5 * 10.0**-digits else f"{number:.{digits}f}"


def interval_text(interval: Interval, digits: int = 3) -> str:
    """Return `value [low, high]`, or what of it there is."""
    value = figure_text(interval.value, digits)
    if not plots.is_number(interval.low) or not plots.is_number(interval.high):
        return value
    return f"{value} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def environment(*folders: Path) -> Environment:
    """Return the jinja2 environment of the pages: everything escaped, an undefined name is an error.

    Args:
        folders: Template folders searched before this floor's own.
    """
    env = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals["columns"] = columns
    env.filters["share"] = frac_text
    env.tests["measured"] = plots.is_number
    env.filters |= {
        "figure": figure_text,
        "percent": plots.percent,
        "interval": interval_text,
        "count": lambda n: f"{int(n):,}",
    }
    return env


def columns(n_figures: int) -> str:
    """Return the smallest width of a figure in a grid of `n_figures`, so that the last line is not a lone one."""
    if n_figures == 1:
        return "100%"
    return "440px" if n_figures in (2, 4) else "320px"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names as a sentence lists them.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a", "b", "c", "d", "e"])
        ('a, b and c', 'a, b, c and 2 more')
    """
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def write_latents_page(analysis: LatentAnalysis, path: Path, *, with_figures: bool = False) -> Path:
    """Write `latents.html` whole and return its path.

    Args:
        analysis: What the page shows; no model is needed.
        path: Where it goes.
        with_figures: Leave every figure as SVG and PNG in `<stem>_figures` beside it too.
    """
    template = environment().get_template("latents.html.j2")
    with plots.saved_beside(path.with_name(f"{path.stem}_figures") if with_figures else None):
        view = {**_view(analysis), **checks_view(analysis)}
    view |= {"parts": parts_of(view), "rows": with_cards(view)}
    write_text(path, template.render(view))
    return path


def finding(analysis: LatentAnalysis) -> str:
    """Say in a sentence what was found; an empty list is a finding."""
    found = {d: analysis.selected_rows(d) for d in DIRECTIONS}
    if not any(found.values()):
        return "No latent tells known names from unknown ones."
    first, second = sorted(DIRECTIONS, key=lambda d: -len(found[d]))
    parts = [_tells(found[first], first)]
    parts.append(_tells(found[second], second) if found[second] else f"none tells {second} ones")
    return "; ".join(parts) + "."


def _tells(rows: list[dict[str, Any]], direction: str) -> str:
    """Return `2 latents tell unknown names at layers.2`."""
    where = listed(list(dict.fromkeys(row["hook_point"] for row in rows)))
    return f"{len(rows)}{plots.NBSP}latent{'s tell' if len(rows) > 1 else ' tells'} {direction} names at {where}"


def _view(analysis: LatentAnalysis) -> dict[str, Any]:
    """Return everything the template shows."""
    summary = analysis.summary()
    rule = SelectionRule(**analysis.attrs.get("rule", {}))
    rows = [(d, row) for d in DIRECTIONS for row in analysis.selected_rows(d)]
    widths = [len(h.q_value) for h in analysis.hook_points]
    passing = sum(int((h.q_value <= rule.max_q).sum()) for h in analysis.hook_points)
    probe = analysis.at(summary["probe_hook_point"]).probe
    model = PurePath(str(analysis.attrs.get("model") or "unnamed model")).name
    n_names, n_heldout = len(analysis.entity_keys), int(analysis.held_out.sum())
    return {
        "title": f"Latents that tell known from unknown names: {model}",
        "kind": "Latents that know a name",
        "subject": f"{model}, {listed([h.hook_point for h in analysis.hook_points])}",
        "finding": finding(analysis),
        "lead": f"Searched among {sum(widths):,} latents of {model} with one half of the names, "
        f"checked on {n_heldout:,} names that played no part in the search.",
        "score": _score_tile(analysis, summary),
        "probe": {"value": probe.value, "text": _spread_text(probe, summary["probe_hook_point"], len(widths))},
        "counts": {
            "names": n_names,
            "names_text": f"{summary['n_known']:,} known, {summary['n_unknown']:,} unknown; {n_heldout:,} held out",
            "latents": sum(widths),
            "latents_text": f"{passing:,} pass q ≤ {rule.max_q}, {len(rows)} selected",
            "mining": n_names - n_heldout,
            "heldout": n_heldout,
        },
        "figures": _figures(analysis),
        "shrinkage": _shrinkage([row for _, row in rows]),
        "rows": rows,
        "hook_points": [_hook_point_row(h, rule) for h in analysis.hook_points],
        "rule": rule,
        "has_general_rate": any(h.general_rate is not None for h in analysis.hook_points),
        "provenance": _provenance(analysis),
    }


def _spread_text(interval: Interval, hook_point: str, n_hook_points: int) -> str:
    """Return the small print under a headline AUROC: it is the best of several, if there are several."""
    where = (
        f"{hook_point}, the best of {n_hook_points} hook points"
        if n_hook_points > 1
        else f"held-out names, {hook_point}"
    )
    if not plots.is_number(interval.low):
        return where
    return f"95{plots.NBSP}% interval {interval.low:.3f} to {interval.high:.3f}; {where}"


def _score_tile(analysis: LatentAnalysis, summary: dict[str, Any]) -> dict[str, Any]:
    """Return the headline of the selected latents together."""
    if summary["score_hook_point"] is None:
        return {"value": None, "text": "none was selected"}
    score = analysis.at(summary["score_hook_point"]).score
    return {"value": score.value, "text": _spread_text(score, summary["score_hook_point"], len(analysis.hook_points))}


def _hook_point_row(found: HookPointAnalysis, rule: SelectionRule) -> dict[str, Any]:
    """Return one line of the table of hook points."""
    return {
        "name": found.hook_point,
        "sae": found.sae,
        "n": len(found.q_value),
        "passing": int((found.q_value <= rule.max_q).sum()),
        "known": len(found.selected["known"]),
        "unknown": len(found.selected["unknown"]),
        "score": found.score,
        "probe": found.probe,
        "fvu": found.fvu_at_names,
    }


def _shrinkage(rows: list[dict[str, Any]]) -> str:
    """Say how much of the selected latents' separation was left on the other half."""
    if not rows:
        return ""
    mining, heldout = (float(np.mean([r[k] for r in rows])) for k in ("separation", "heldout_separation"))
    return (
        f"The selected ones separate by {mining:.2f} on the searched half and {heldout:.2f} on the other, on average."
    )


def _provenance(analysis: LatentAnalysis) -> list[tuple[str, str]]:
    """Return what the figures were made from."""
    rule = analysis.attrs.get("rule", {})
    known = [(k.replace("_", " "), str(v)) for k, v in sorted(analysis.attrs.items()) if k not in ("rule", "types")]
    saes = [(f"SAE at {h.hook_point}", f"{h.sae} ({h.sae_hash})") for h in analysis.hook_points]
    settings = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in rule.items())
    return [
        *known,
        *saes,
        *([("rule", settings)] if settings else []),
        ("types of names", ", ".join(analysis.types)),
    ]


def heldout_counts(analysis: LatentAnalysis) -> np.ndarray:
    """Return how many known and unknown names of each type were held out, (2, n_types)."""
    counts = np.zeros((2, len(analysis.types)), dtype=int)
    for label, kind, held in zip(analysis.entity_labels, analysis.entity_types, analysis.held_out, strict=True):
        if held and label in DIRECTIONS:
            counts[int(label == "unknown"), analysis.types.index(kind)] += 1
    return counts


def heldout_frequency(analysis: LatentAnalysis, found: HookPointAnalysis) -> np.ndarray:
    """Return how often each latent fires at known and unknown held-out names of all types, (2, d_sae)."""
    counts = heldout_counts(analysis)[:, :, None]
    return (np.nan_to_num(found.heldout.freq) * counts).sum(1) / np.maximum(counts.sum(1), 1)


def _figures(analysis: LatentAnalysis) -> dict[str, Any]:
    """Return the figures of the page."""
    hooks = analysis.hook_points
    frequency = [heldout_frequency(analysis, h) for h in hooks]
    rows = [(d, row) for d in DIRECTIONS for row in analysis.selected_rows(d)[:NAMED]]
    index = {h.hook_point: i for i, h in enumerate(hooks)}
    names = [_name(row, alone=len(hooks) == 1) for _, row in rows]
    at = [frequency[index[row["hook_point"]]][:, row["latent"]] for _, row in rows]
    sign = [1.0 if d == "known" else -1.0 for d, _ in rows]
    firing = [Mark(float(p[0]), float(p[1]), n, COLOURS[d]) for (d, _), n, p in zip(rows, names, at, strict=True)]
    kept = [
        Mark(s * row["separation"], s * row["heldout_separation"], n, COLOURS[d])
        for (d, row), n, s in zip(rows, names, sign, strict=True)
    ]
    every = np.concatenate(frequency, axis=1)
    both = [np.concatenate([getattr(h, half).score for h in hooks]) for half in ("mining", "heldout")]
    return {
        "frequency": Markup(plots.frequency_scatter(every[0], every[1], firing)),
        "shrinkage": Markup(plots.shrinkage_scatter(both[0], both[1], kept)),
        "hook_points": Markup(_hook_point_figure(hooks)),
        "types": [
            (_name(row, alone=len(hooks) == 1), d, Markup(_type_figure(analysis, d, row))) for d, row in _best(analysis)
        ],
    }


def _best(analysis: LatentAnalysis) -> list[tuple[str, dict[str, Any]]]:
    """Return the latents that get a figure of their own: the best of both directions in turn."""
    lists = [[(d, row) for row in analysis.selected_rows(d)] for d in DIRECTIONS]
    turns = [one[i] for i in range(max(map(len, lists), default=0)) for one in lists if i < len(one)]
    return turns[:SHOWN]


def _name(row: dict[str, Any], *, alone: bool) -> str:
    """Return what a latent is called in a figure."""
    return f"latent {row['latent']}" if alone else f"{row['hook_point']} · {row['latent']}"


def _type_title(direction: str, row: dict[str, Any]) -> str:
    """Return the title of one latent's figure."""
    return f"Latent {row['latent']} at {row['hook_point']} tells {direction} names"


def _type_figure(analysis: LatentAnalysis, direction: str, row: dict[str, Any]) -> str:
    """Draw one latent by type of name."""
    freq = analysis.at(row["hook_point"]).heldout.freq[:, :, row["latent"]]
    number = [h.hook_point for h in analysis.hook_points].index(row["hook_point"])
    key = f"types-{direction}-{number}-{row['latent']}"
    counts = heldout_counts(analysis)
    title = _type_title(direction, row)
    return latents_plots.type_bars(
        key, title, analysis.types, list(freq[0]), list(freq[1]), (counts[0].tolist(), counts[1].tolist())
    )


def _hook_point_figure(hooks: Sequence[HookPointAnalysis]) -> str:
    """Draw the selected latents beside the linear probe, one line per hook point."""
    series = [
        Series([i.value for i in each], [i.low for i in each], [i.high for i in each], colour, filled=filled)
        for each, colour, filled in (
            ([h.score for h in hooks], plots.INK, True),
            ([h.probe for h in hooks], plots.MUTED, False),
        )
    ]
    best = [max((row["heldout_maxmin"] for d in DIRECTIONS for row in h.rows(d)), default=None) for h in hooks]
    series.append(Series(best, [None] * len(hooks), [None] * len(hooks), plots.TARGET))
    spoken = "; ".join(
        f"{h.hook_point}: selected {interval_text(h.score)}, probe {interval_text(h.probe)}" for h in hooks
    )
    return plots.interval_rows("hook-points", f"Held-out AUROC. {spoken}", [h.hook_point for h in hooks], series)
