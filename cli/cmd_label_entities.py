"""`wb label-entities`: known or unknown, by the model's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.entity_source import EntitySource
from features.config import KnowledgeRule
from sae_train.config import Decoding
from sae_train.errors import ConfigError

CHATS = ("auto", "on", "off")
DUPLICATES = ("error", "first", "merge")


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
    _check_usage(given, out, stats)
    from cli.labelling import ask_and_label, counts_of, label_again, print_stats, stats_of
    from cli.render import emit
    from features.entities import save_entities
    from sae_train.runs import claim_output

    if given["labels"] is not None:
        if out is not None:
            claim_output(out, overwrite=overwrite)
        labelled, rule = label_again(given)
        if out is not None:
            save_entities(labelled, out)
    else:
        assert out is not None
        labelled, rule = ask_and_label(given, out, overwrite=overwrite, resume=resume)
    result = {"out": out and str(out), "rule": rule.name, **counts_of(labelled)}
    shown = stats_of(labelled, rule, given["seed"]) if stats else None
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
