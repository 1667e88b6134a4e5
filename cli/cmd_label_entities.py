"""`wb label-entities`: known or unknown, by the model's own answers."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options


@click.command(
    epilog=options.example(
        "wb label-entities --model fact-world --entities fact-world --templates fact-world --out labels.jsonl"
    )
)
@options.model_option()
@options.entities_option
@options.templates_option
@options.out_option("The labels, JSON lines.")
@click.option(
    "--min-known-attributes",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Attributes a known entity has.",
)
@click.option(
    "--lm-dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Format the model computes in.",
)
@options.device_option
@options.overwrite_option
@options.common_options
def command(
    model: str,
    entities: Path,
    templates: Path,
    out: Path,
    min_known_attributes: int,
    lm_dtype: str,
    device: str,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Ask the model about every entity and label it known, unknown or between.

    An attribute is known if most of its questions are answered rightly; an entity is known with enough known
    attributes, unknown if no answer is right. Every answer is kept in the file.
    """
    from cli.inputs import load_model
    from cli.render import emit, progress
    from features.entities import load_entities, save_entities
    from features.knowledge import KnowledgeRule, label_entities
    from features.prompts import check_types, load_templates, questions
    from sae_train.runs import claim_output

    claim_output(out, overwrite=overwrite)
    subjects, asked = load_entities(entities), load_templates(templates)
    check_types(subjects, asked)
    lm = load_model(model, device=device, dtype=lm_dtype)
    n_questions = sum(1 for e in subjects for _ in questions(e, asked, heldout=False))
    rule = KnowledgeRule(min_known_attributes=min_known_attributes)
    with progress("asking", n_questions) as advance:
        labelled = label_entities(lm, subjects, asked, rule, advance=advance)
    save_entities(labelled, out)
    counts = {label: sum(e.label == label for e in labelled) for label in ("known", "unknown", "between")}
    emit({"out": str(out), **counts, "questions": n_questions}, as_json=as_json, title="Labels")
