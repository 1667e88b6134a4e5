"""Inputs given by name instead of a path: a fact world, or `org/name` of a hub dataset. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from sae_train.text.worlds import find_world

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".gz", ".tsv", ".txt", ".parquet")


def world_part(name: str | Path, part: str) -> Path | None:
    """Return the file that the name of a world stands for; None for everything else, which is a path.

    Args:
        name: What was given; only a text names a world, `Path("fact-world")` is the folder of that name.
        part: `entities` or `templates`.

    Example:
        >>> world_part("fact-world", "entities").name, world_part("models/fact-world", "entities")
        ('entities.jsonl', None)
    """
    world = find_world(name) if isinstance(name, str) else None
    return None if world is None else getattr(world, part)


def is_hub_id(text: str) -> bool:
    """Tell whether a text is the id of a dataset, `org/name`, and no path here.

    Example:
        >>> is_hub_id("org/people"), is_hub_id("people"), is_hub_id("org/people.jsonl")
        (True, False, False)
    """
    path = Path(text)
    has_form = _HUB_ID.fullmatch(text) is not None and not text.endswith(_FILE_SUFFIXES)
    return has_form and not path.exists() and not path.parent.is_dir()


def entity_source(given: str | Path) -> str | Path:
    """Return where entities are read from: a path, or as a text the id of a dataset on the hub.

    Example:
        >>> entity_source("labels.jsonl").name, entity_source("fact-world").name, entity_source("org/people")
        ('labels.jsonl', 'entities.jsonl', 'org/people')
    """
    named = world_part(given, "entities")
    if named is not None:
        return named
    return given if isinstance(given, str) and is_hub_id(given) else Path(given)
