"""`--entities` of a command that also reads hub datasets: a path, `fact-world`, or the id of a dataset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from cli.param_types import ExistingFile

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".gz", ".tsv", ".txt", ".parquet")


class EntitySource(ExistingFile):
    """A file of entities, or, as a text, the id of a hub dataset: `org/name` that is no path here."""

    name = "entities"

    def __init__(self) -> None:
        super().__init__("entities", world_file="entities")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path or the id.

        Raises:
            MissingFileError: It is neither.
        """
        text, path = str(value), Path(value)
        is_id = _HUB_ID.fullmatch(text) is not None and not text.endswith(_FILE_SUFFIXES)
        if is_id and not path.exists() and not path.parent.is_dir():
            return text
        return super().convert(value, param, ctx)
