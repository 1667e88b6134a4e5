"""The options that only `wb label-entities` has: which entities, how to ask, which rule. Imports no torch."""

from __future__ import annotations

import click

from cli import options
from cli.entity_source import EntitySource, entities_format_option
from features.config import KnowledgeRule
from sae_train.config import Decoding

CHATS = ("auto", "on", "off")
DUPLICATES = ("error", "first", "merge")

entities_option = click.option(
    "--entities",
    type=EntitySource(),
    help="Entities: JSON lines, CSV (name, type, aliases, popularity, a column a fact), other benchmarks' files, hub"
    " dataset id, or fact-world.",
)

label_options = options.option_list(
    entities_format_option,
    options.config_options(
        KnowledgeRule, names={"name": "--rule"}, depends={"name": "ferrando with samples, else paraphrases"}
    ),
    options.config_options(
        Decoding,
        only=("samples", "temperature"),
        depends={"samples": "10 with --rule ferrando or self-consistent, else 0"},
    ),
    click.option(
        "--chat", type=click.Choice(CHATS), default="off", show_default=True, help="Ask in the model's chat template."
    ),
    click.option(
        "--duplicates",
        type=click.Choice(DUPLICATES),
        default="error",
        show_default=True,
        help="What becomes of a name that is there twice in its type.",
    ),
    click.option("--stats", is_flag=True, help="Show labels by type, name length and popularity, and some answers."),
)
