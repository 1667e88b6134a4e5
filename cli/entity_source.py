"""`--entities` of commands that also read hub datasets: a path, `fact-world`, or the id of a dataset."""

from __future__ import annotations

from typing import Any

import click

from cli.param_types import ExistingFile


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
        from features.entities.named_inputs import is_hub_id

        return str(value) if is_hub_id(str(value)) else super().convert(value, param, ctx)
