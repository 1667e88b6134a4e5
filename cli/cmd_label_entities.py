"""`wb label-entities`: known or unknown, by the model's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.entity_source import EntitySource
from cli.usage import check_labelling
from features.config import KnowledgeRule
from sae_train.config import Decoding

CHATS = ("auto", "on", "off")
DUPLICATES = ("error", "first", "merge")
THRESHOLDS = ("min_known_attributes", "min_right_share", "min_sample_share")


@click.command(
    epilog=options.example(
        "wb label-entities --model fact-world --entities fact-world --templates fact-world --out labels.jsonl",
        "wb label-entities --labels labels.jsonl --stats",
    )
)
@options.model_option(required=False)
@click.option(
    "--entities",
    type=EntitySource(),
    help="Entities: JSON lines, CSV (name, type, aliases, popularity, a column a fact), hub dataset id, or fact-world.",
)
@options.file_option("--templates", "prompt templates (JSON)", world="templates", required=False)
@options.file_option("--labels", "labels made before: their answers are judged again, nothing is asked", required=False)
@options.out_option("The labels, JSON lines.", required=False)
@options.config_options(
    KnowledgeRule, names={"name": "--rule"}, depends={"name": "ferrando with samples, else paraphrases"}
)
@options.config_options(
    Decoding, only=("samples", "temperature"), depends={"samples": "10 with --rule ferrando, else 0"}
)
@click.option(
    "--chat", type=click.Choice(CHATS), default="off", show_default=True, help="Ask in the model's chat template."
)
@click.option(
    "--duplicates",
    type=click.Choice(DUPLICATES),
    default="error",
    show_default=True,
    help="What becomes of a name that is there twice in its type.",
)
@click.option("--stats", is_flag=True, help="Show labels by type, name length and popularity, and some answers.")
@options.lm_dtype_option("float32", "bfloat16")
@options.seed_option()
@options.device_option
@options.overwrite_option
@options.resume_option
@options.common_options
def command(
    out: Path | None,
    stats: bool,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Ask the model about every entity and label it known, unknown or between.

    \b
    paraphrases: an attribute is known if most of its greedy answers are right; an entity is unknown if none is.
    ferrando:    an attribute is known if 3 of 10 sampled answers are right; an entity is unknown if none is.

    By both an entity is known with two known attributes (or its only one), and what is neither is between. Greedy
    answers write a tenth of what ten samples do, so they are the default. Every answer is kept: --labels
    applies another rule to them, or shows their --stats. An interrupted run leaves OUT.partial, which --resume
    continues to the same file.
    """
    check_labelling(given, out, stats)
    from cli.label_tables import show_labels
    from features import Labels, label_entities

    labels, rule = given.pop("labels"), {"rule": given.pop("name"), **{f: given.pop(f) for f in THRESHOLDS}}
    if labels is None:
        lm, dtype = given.pop("model"), given.pop("lm_dtype")
        found = label_entities(lm, **given, **rule, dtype=dtype, out=out, overwrite=overwrite, resume=resume)
    else:
        found = Labels.load(labels).relabel(**rule)
        if out is not None:
            found.save(out, overwrite=overwrite)
    show_labels(found, out, seed=given["seed"], stats=stats, as_json=as_json)
