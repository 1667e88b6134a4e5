"""The page of `wb inspect --html`: one file in figures and tables. Page frame: `latents_page.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from markupsafe import Markup

from features.inspection.inspection import Inspection
from features.pages import inspection_plots as figures
from features.pages.latents_page import environment, listed
from features.pages.plots import NBSP, is_number, percent
from sae_train.run.runs import write_text

OPEN_SECTIONS = 3  # hook points that are shown unfolded
SHOWN_TOKENS = 10  # in a table; --json has more
NAMED_DIMS = 5  # coloured in the scatter of dimensions
MASSIVE_FRAC = 0.2  # a dimension with this share of the squares is news
_KINDS = {
    "activations": "Activation store",
    "latents": "Latents that know a name",
    "name-activations": "Activations at names",
}


def write_inspection_page(found: Inspection, path: Path) -> Path:
    """Write the page of what `inspect_file` found, whole, and return its path."""
    template = environment().get_template("inspect.html.j2")
    write_text(path, template.render(_view(found)))
    return path


def finding(found: Inspection) -> str:
    """Say what is most worth knowing: damage, broken rules, NaN, what moved, a massive dimension, or the size."""
    if found.damaged:
        return f"This file is damaged in {_number(found.damaged, 'place')}."
    if found.violations:
        return f"This file breaks {_number(found.violations, 'rule')} of its format."
    if found.latents:
        n_selected = sum(s["selected_known"] + s["selected_unknown"] for s in found.latents)
        n_latents = sum(s["n_latents"] for s in found.latents)
        return f"{n_selected:,} of {n_latents:,} latents are selected."
    statistics: Mapping[str, Any] = found.statistics
    if not statistics:
        return "This store is not finished."
    bad = {name: s["n_nonfinite_rows"] for name, s in statistics.items() if s["n_nonfinite_rows"]}
    if bad:
        return f"{sum(bad.values()):,} rows hold NaN or Inf, at {listed(list(bad))}."
    if found.comparison is not None:
        return _moved(found.comparison)
    massive = {name: s["massive_dims"][0] for name, s in statistics.items() if s["massive_dims"]}
    name, top = max(massive.items(), key=lambda item: item[1]["frac_squares"], default=("", None))
    if top is not None and top["frac_squares"] >= MASSIVE_FRAC and statistics[name]["d_in"] > 1 / MASSIVE_FRAC:
        return f"Dimension {top['dimension']} carries {percent(top['frac_squares'])} of the squared norm at {name}."
    return f"{found.counts['rows']:,} rows at {_number(statistics, 'hook point')}, all finite."


def _moved(comparison: Mapping[str, Any]) -> str:
    """Say how far the rows, or at least their mean, are from those of the other store."""
    name = PurePath(str(comparison["against"])).name
    rows = list(comparison["hook_points"].values())
    changed = [r for r in rows if r["row_change"]]
    if changed:
        most = max(changed, key=lambda r: r["row_change"]["mean"])
        if most["row_change"]["percentiles"]["max"] == 0:
            return f"{name} holds the same activations."
        return f"From here to {name} a row moves by {percent(most['row_change']['mean'])} at {most['hook_point']}."
    most = max(rows, key=lambda r: r["mean_shift"] if is_number(r["mean_shift"]) else -1.0)
    return f"{name} holds other rows; their mean is {most['mean_shift']:.2f} spreads away at {most['hook_point']}."


def _number(things: Any, word: str) -> str:
    """Return `2 places`."""
    return f"{len(things):,}{NBSP}{word}{'' if len(things) == 1 else 's'}"


def _view(found: Inspection) -> dict[str, Any]:
    """Return everything the template shows."""
    name = PurePath(str(found.file)).name
    statistics: Mapping[str, Any] = found.statistics
    return {
        "title": f"{name}: what is in it",
        "kind": _KINDS[found.schema],
        "subject": name,
        "finding": finding(found),
        "lead": _lead(found),
        "tiles": _tiles(found),
        "problems": [*(f"damaged: {d}" for d in found.damaged), *found.violations],
        "overview": [{"name": name, **s} for name, s in statistics.items()],
        "hook_points": [
            {"name": name, "is_open": i < OPEN_SECTIONS, "figures": _figures(i, name, s), **_tables(s)}
            for i, (name, s) in enumerate(statistics.items())
        ],
        "comparison": _comparison_view(found.comparison),
        "latents": found.latents,
        "datasets": found.datasets,
        "shown_tokens": SHOWN_TOKENS,
        "provenance": [
            ("file", found.file),
            ("schema", f"{found.schema} version {found.schema_version}"),
            *((key.replace("_", " "), _plain(value)) for key, value in sorted(found.attrs.items())),
        ],
    }


def _plain(value: Any) -> str:
    """Return an attribute as a reader wants it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _lead(found: Inspection) -> str:
    """Say what the file holds."""
    counts = found.counts
    model = PurePath(str(found.attrs.get("model") or "an unnamed model")).name
    if found.latents:
        return f"An analysis of {model}: {counts['known']:,} known and {counts['unknown']:,} unknown names."
    if not found.statistics:
        return f"Activations of {model}; nothing was measured."
    names = f", {counts['entity_rows']:,} of them last name tokens" if counts["entity_rows"] else ""
    where = listed(list(found.statistics))
    return f"Activations of {model} at {where}: {counts['rows']:,} rows from {counts['documents']:,} documents{names}."


def _tiles(found: Inspection) -> list[tuple[str, str, str]]:
    """Return name, figure and small print of each headline number."""
    counts: Mapping[str, Any] = found.counts
    n_bytes = sum(d["stored_bytes"] for d in found.datasets)
    n_problems = len(found.damaged) + len(found.violations)
    integrity = "–" if found.verified is None else f"{n_problems:,} problems" if n_problems else "sound"
    checked = "not checked, which \u2011\u2011verify does" if found.verified is None else "every chunk was read"
    tiles = [
        (key.replace("_", " ").capitalize(), f"{value:,}", "") for key, value in counts.items() if is_number(value)
    ]
    return [*tiles, ("Size", f"{n_bytes / 2**20:,.1f}{NBSP}MiB", ""), ("Integrity", integrity, checked)]


def _figures(number: int, name: str, stats: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return title, figure and caption of each picture of one hook point; what was not measured has none."""
    found = []
    spectrum, dimensions, positions = stats["spectrum"], stats["dimensions"], stats["positions"]
    if stats["norm_histogram"]["counts"]:
        ranks = [(label, stats["norm_percentiles"][rank]) for label, rank in (("median", "p50"), ("99 %", "p99"))]
        edges, counts = (stats["norm_histogram"][key] for key in ("edges", "counts"))
        svg = figures.norm_histogram(f"norms-{number}", name, edges, counts, ranks)
        found.append(("How large are the rows?", svg, "Rows by norm, in bins of equal ratio."))
    if any(v > 0 for v in dimensions["variance"]):
        svg = _dimension_figure(number, name, stats)
        found.append(("Does a dimension stand out?", svg, "Each dot is a dimension; coloured are the largest ones."))
        svg = figures.variance_curve(f"variance-{number}", name, dimensions["variance"])
        found.append(("How is the variance spread?", svg, "Variance of each dimension, sorted."))
    if spectrum["frac_components"]:
        svg = figures.spectrum_curve(
            f"spectrum-{number}", name, spectrum["frac_components"], spectrum["effective_rank"]
        )
        text = f"Share of variance of the first components, {spectrum['n_rows']:,} rows. Dashed: the effective rank."
        found.append(("How many directions are used?", svg, text))
    if positions:
        labels = [f"{p['first']}" if p["first"] == p["last"] else f"{p['first']}–{p['last']}" for p in positions]
        for what, key, title, text in (
            ("mean norm", "mean_norm", "Does the norm drift?", "Mean norm by position in the document."),
            ("cosine", "cosine", "Does the mean drift?", "Cosine of the rows’ mean there to the mean of all rows."),
        ):
            values = [float("nan") if p[key] is None else p[key] for p in positions]
            svg = figures.position_line(f"{key}-{number}", name, what, labels, values)
            found.append((title, svg, text))
    return [(title, Markup(svg), text) for title, svg, text in found]


def _dimension_figure(number: int, name: str, stats: Mapping[str, Any]) -> str:
    """Draw the dimensions; labelled are the largest one and, if it is of the same order, the second."""
    massive = stats["massive_dims"][:NAMED_DIMS]
    n_labels = sum(d["frac_squares"] > massive[0]["frac_squares"] / 4 for d in massive[:2])
    named = [d["dimension"] for d in massive]
    mean, variance = (stats["dimensions"][key] for key in ("mean", "variance"))
    return figures.dimension_scatter(f"scatter-{number}", name, mean, variance, named, n_labels=n_labels)


def _tables(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of the tables of one hook point; a token's text is quoted, so that its spaces show."""
    tokens = [
        {**t, "shown": json.dumps(t["text"], ensure_ascii=False) if "text" in t else None} for t in stats["top_tokens"]
    ]
    dimensions = stats["dimensions"]
    massive = [
        {**d, **{key: dimensions[key][d["dimension"]] for key in ("mean", "variance", "kurtosis")}}
        for d in stats["massive_dims"]
    ]
    return {"tokens": tokens, "has_text": any(t["shown"] for t in tokens), "massive": massive, "stats": stats}


def _comparison_view(comparison: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the section on two stores, or None."""
    if comparison is None:
        return None
    rows = list(comparison["hook_points"].values())
    drawn = []
    for number, row in enumerate(rows):
        change = np.array(row["dimension_change"], dtype=float)
        if np.isfinite(change).any():
            svg = figures.change_curve(f"change-{number}", row["hook_point"], change)
            drawn.append((row["hook_point"], Markup(svg), row["changed_dims"]))
    return {
        "name": PurePath(str(comparison["against"])).name,
        "rows": rows,
        "has_same_rows": all(r["has_same_rows"] for r in rows),
        "frac_same_rows": rows[0]["frac_same_rows"],
        "figures": drawn,
        "differing": [(k.replace("_", " "), *map(_plain, pair)) for k, pair in comparison["differing_attrs"].items()],
    }
