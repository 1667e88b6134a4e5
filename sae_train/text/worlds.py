"""Registry of worlds: language models that a package ships with entities, templates and corpus.

The ground floor knows none of them. A package offers one by an entry point of the group `sae_workbench.worlds`, whose
value is a `World`:

    [project.entry-points."sae_workbench.worlds"]
    fact-world = "features.factworld:SHIPPED"

So `load_lm`, `load_documents` and the command line take the name in the place of a path; `./fact-world` is the folder
of that name. Imports no torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

GROUP = "sae_workbench.worlds"


@dataclass(frozen=True)
class World:
    """A language model and what it may know.

    Attributes:
        folder: A Hugging Face folder, with `entities.jsonl` and `templates.json` in it.
        documents: Returns the texts that the model was trained on, in their order.
    """

    folder: Path
    documents: Callable[[], Iterable[str]]

    @property
    def entities(self) -> Path:
        """Return the file of entities."""
        return self.folder / "entities.jsonl"

    @property
    def templates(self) -> Path:
        """Return the file of prompt templates."""
        return self.folder / "templates.json"


def world_names() -> list[str]:
    """Return the names of all worlds that installed packages offer."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)})


def find_world(name: str) -> World | None:
    """Return the world of a name; None where no installed package offers one, as for every path.

    Example:
        >>> find_world("models/fact-world") is None
        True
    """
    if Path(name).name != name:
        return None
    for entry in importlib.metadata.entry_points(group=GROUP, name=name):
        found = entry.load()
        assert isinstance(found, World), f"{entry.value} is no World"
        return found
    return None


def install_hint(name: str) -> str | None:
    """Return what to try where a name was not found that could be a world's, and no world is registered at all.

    So it is in a source tree that was not installed: entry points are read from the metadata of installed packages.
    """
    if Path(name).name != name or Path(name).suffix or world_names():
        return None
    return "install the package (pip install .): its worlds are found by its metadata"
