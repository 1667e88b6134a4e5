"""`--entities` and `--entities-format`: a path, `fact-world`, or the id of a hub dataset, and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import file_option, option_list
from cli.param_types import ExistingFile
from sae_train.text.worlds import find_world

FORMATS = ("tofu", "rwku", "lume", "qa", "counterfact", "pararel", "popqa", "relations", "wikidata", "csv")


class EntitySource(ExistingFile):
    """A file or folder of entities, or, as a text, the id of a hub dataset: `org/name` that is no path here."""

    name = "entities"

    def __init__(self) -> None:
        super().__init__("entities", world_file="entities")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path or the id.

        Raises:
            MissingFileError: It is neither.
        """
        from features.entities.named_inputs import is_hub_id

        if is_hub_id(str(value)):
            return str(value)
        path = Path(value)
        return path if path.is_dir() and find_world(str(value)) is None else super().convert(value, param, ctx)


entities_format_option = click.option(
    "--entities-format",
    type=click.Choice(("auto", "own", *FORMATS)),
    default="auto",
    show_default=True,
    help="What --entities is: our own form, another benchmark's, or seen by its first row.",
)

mixed_entities_options = option_list(
    click.option("--entities", type=EntitySource(), help="Entities to mix in: as for wb label-entities."),
    entities_format_option,
    file_option("--templates", "prompt templates (JSON)", world="templates", required=False),
)
