"""A catalogue of latents as a folder: the page, its data, and the record of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from features.browsing.records import Catalogue
from sae_train.run.outputs import claimed, whole_folder
from sae_train.run.progress import Progress, shown
from sae_train.run.runs import Run


def save_catalogue(
    catalogue: Catalogue,
    out: str | Path,
    *,
    config: object,
    inputs: Mapping[str, Any],
    result: Mapping[str, Any],
    beside: Callable[[Path], None],
    overwrite: bool,
    progress: Progress | None,
) -> Path:
    """Write the page of a catalogue into a folder, whole, and return the folder; `index.html` is the page.

    Args:
        catalogue: The latents.
        out: The folder.
        config, inputs, result: What the run's record says.
        beside: Writes what else belongs into the folder.
        overwrite: Replace what an earlier run wrote there.
        progress: Shows how far it is.

    Raises:
        OutputExistsError: Something is there already, and it is not to be overwritten.
    """
    from features.pages.browser_page import write_browser_page  # draws: only for those who want a page

    path = Path(out)
    with claimed(path, overwrite=overwrite), whole_folder(path, overwrite=overwrite) as folder:
        run = Run(folder, config=config, command="features", inputs=inputs)
        with (progress or shown)("writing the page", catalogue.n_latents, unit="latents") as advance:
            write_browser_page(catalogue, folder, advance)
        beside(folder)
        run.finish(result=dict(result))
    return path
