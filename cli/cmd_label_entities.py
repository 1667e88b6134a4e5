"""`wb label-entities`: known or unknown, by the model's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.entity_source import EntitySource
from features.rules import RULES, KnowledgeRule
from sae_train.errors import ConfigError

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
@click.option(
    "--rule",
    "name",
    type=click.Choice(sorted(RULES)),
    help="When an entity is known.  [default: ferrando with samples, else paraphrases]",
)
@options.field_option(KnowledgeRule, "min_known_attributes", type=int, help="Attributes a known entity has.")
@options.field_option(
    KnowledgeRule, "min_right_share", type=float, help="paraphrases: more than this share of the wordings is right."
)
@options.field_option(
    KnowledgeRule, "min_sample_share", type=float, help="ferrando: at least this share of the samples is right."
)
@click.option(
    "--samples",
    type=int,
    help="Sampled answers per question, besides the greedy one.  [default: 10 with --rule ferrando, else 0]",
)
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the samples.")
@click.option(
    "--chat", type=click.Choice(CHATS), default="off", show_default=True, help="Ask in the model's chat template."
)
@click.option(
    "--duplicates", type=click.Choice(DUPLICATES), default="error", show_default=True, help="A name twice in its type."
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
    _check_usage(given, out, stats)
    from cli.label_tables import print_stats, stats_of
    from cli.render import emit
    from features import Labels, label_entities

    labels, rule = given.pop("labels"), {"rule": given.pop("name"), **{f: given.pop(f) for f in THRESHOLDS}}
    if labels is None:
        lm, dtype = given.pop("model"), given.pop("lm_dtype")
        found = label_entities(lm, **given, **rule, dtype=dtype, out=out, overwrite=overwrite, resume=resume)
    else:
        found = Labels.load(labels).relabel(**rule)
        if out is not None:
            found.save(out, overwrite=overwrite)
    assert found.rule is not None, "labels that were made here know their rule"
    result = {"out": out and str(out), "rule": found.rule.name, **found.counts, "questions": found.n_questions}
    shown = stats_of(found, given["seed"]) if stats else None
    emit(result | ({"stats": shown} if shown else {}), as_json=as_json, title="Labels")
    if shown and not as_json:
        print_stats(shown)


def _check_usage(given: dict[str, Any], out: Path | None, stats: bool) -> None:
    """Refuse a call that neither says whom to ask nor which answers to read.

    Raises:
        ConfigError: Something is missing, or two ways are mixed.
    """
    needed = {"--model": given["model"], "--entities": given["entities"], "--templates": given["templates"]}
    if given["labels"] is None:
        missing = [name for name, value in {**needed, "--out": out}.items() if value is None]
        if missing:
            raise ConfigError(
                f"missing option {', '.join(missing)}",
                got="neither these nor --labels",
                expected="--model, --entities, --templates and --out to ask, or --labels for answers given before",
            )
        return
    mixed = [name for name, value in needed.items() if value is not None]
    if mixed or (out is None and not stats):
        raise ConfigError(
            "--labels reads answers given before; nobody is asked",
            got=", ".join(mixed) or "neither --out nor --stats",
            expected="--labels with --out (the rule applied again), --stats, or both",
        )
