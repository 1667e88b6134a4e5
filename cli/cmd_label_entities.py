"""`wb label-entities`: label entities as known or unknown by the model's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.label_options import entities_option, label_options
from cli.usage import check_labelling
from features.config import KnowledgeRule
from sae_train.fields import described

THRESHOLDS = tuple(name for name in described(KnowledgeRule) if name != "name")


@click.command(
    epilog=options.example(
        "wb label-entities --model fact-world --entities fact-world --templates fact-world --out labels.jsonl",
        "wb label-entities --labels labels.jsonl --stats",
    )
)
@options.model_option(required=False)
@entities_option
@options.file_option("--templates", "prompt templates (JSON)", world="templates", required=False)
@options.file_option("--labels", "labels made before: their answers are judged again, nothing is asked", required=False)
@options.out_option("The labels, JSON lines.", required=False)
@label_options
@options.lm_dtype_option("float32", "bfloat16")
@options.run_options(resume=True)
def command(out: Path | None, stats: bool, as_json: bool, config_path: Path | None, **given: Any) -> None:
    """Ask the model about every entity and label it known, unknown or between.

    \b
    paraphrases: an attribute is known if most of its greedy answers are right; an entity is unknown if none is.
    ferrando:    an attribute is known if 3 of 10 sampled answers are right; an entity is unknown if none is.
    self-consistent: needs no answer key. Known is what most greedy answers and half the samples agree on and what
                 made-up names are not answered as well; that becomes the fact, right or wrong.

    By all an entity is known with two known attributes (or its only one), and what is neither is between. Samples
    write ten times the text, so greedy answers are the default. Every answer is kept: --labels applies
    another rule to them, or shows their --stats. --resume continues an interrupted run to the same file.
    """
    check_labelling(given, out, stats)
    from cli.output.label_tables import show_labels
    from features import Labels, label_entities

    labels, rule = given.pop("labels"), {"rule": given.pop("name"), **{f: given.pop(f) for f in THRESHOLDS}}
    if labels is None:
        found = label_entities(given.pop("model"), dtype=given.pop("lm_dtype"), out=out, **rule, **given)
    else:
        found = Labels.load(labels).relabel(**rule)
        if out is not None:
            found.save(out, overwrite=given["overwrite"])
    show_labels(found, out, seed=given["seed"], stats=stats, as_json=as_json)
