"""Views of an analysis: as a table, as files, and in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.analysis.store import LatentAnalysis, save_analysis
from features.analysis.store_layout import check_name
from features.pages import plots
from features.pages.latents_page import COLOURS, NAMED, finding, heldout_frequency, write_latents_page
from features.pages.plots import Mark
from features.stats.selection import DIRECTIONS
from sae_train.run.notebook import html_rows
from sae_train.run.outputs import claimed

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ("hook_point", "latent", "separation", "heldout_separation", "auroc", "q_value", "general_rate")
HEADS = ("direction", "hook point", "latent", "separation", "held-out", "AUROC", "q", "general rate")


def latent_table(analysis: LatentAnalysis) -> pd.DataFrame:
    """Return the selected latents, best first, known ones before unknown ones.

    `direction` is what a latent tells; the other columns are those of `latents.json`, where none is selected there are
    no rows.
    """
    import pandas as pd

    rows = [{"direction": d, **row} for d in DIRECTIONS for row in analysis.selected_rows(d)]
    return pd.DataFrame(rows, columns=None if rows else ["direction", *SHOWN])


def shown_rows(analysis: LatentAnalysis) -> list[tuple[object, ...]]:
    """Return the selected latents under `HEADS`, for a terminal or a notebook."""
    return [(d, *(row[name] for name in SHOWN)) for d in DIRECTIONS for row in analysis.selected_rows(d)]


def save_latents(analysis: LatentAnalysis, path: Path, *, overwrite: bool = False) -> Path:
    """Write the analysis (HDF5) and, beside it, the selected latents (.json) and the page (.html) with its figures.

    Raises:
        OutputExistsError: The path is taken.
        FileFormatError: It ends in .json or .html.
    """
    with claimed(check_name(path), overwrite=overwrite):
        write_latents_page(analysis, path.with_suffix(".html"), with_figures=True)
        save_analysis(analysis, path)  # last: where it is, everything is
    return path


def latents_html(analysis: LatentAnalysis) -> str:
    """Return what was found in a sentence, the selected latents as a table, and how often each latent fires."""
    every = [heldout_frequency(analysis, found) for found in analysis.hook_points]
    marks = [
        Mark(*_place(frequency, row["latent"]), f"latent {row['latent']}", COLOURS[direction])
        for found, frequency in zip(analysis.hook_points, every, strict=True)
        for direction in DIRECTIONS
        for row in found.rows(direction)[:NAMED]
    ]
    known, unknown = np.concatenate(every, axis=1)
    figure = plots.standing_alone(plots.frequency_scatter(known, unknown, marks))
    return f"<div>{html_rows(finding(analysis), HEADS, shown_rows(analysis))}{figure}</div>"


def _place(frequency: np.ndarray, latent: int) -> tuple[float, float]:
    """Return how often a latent fires at known and at unknown names."""
    return float(frequency[0, latent]), float(frequency[1, latent])
