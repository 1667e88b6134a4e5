"""What `wb label-entities` does: ask, or take the answers of a label file; label; count. Imported inside it only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.render import PIPE_WIDTH, result_table
from features.answer_log import AnswerLog
from features.config import KnowledgeRule
from features.entities import LABELS, Entity, entity_line, load_entities
from features.knowledge import GREEDY, label_entities, relabel
from features.label_stats import label_stats
from features.prompts import Prompt, check_types, in_chat, load_templates, questions
from features.rules import FERRANDO, PARAPHRASES, RULES
from sae_train.config import Decoding
from sae_train.errors import ConfigError, OutputExistsError
from sae_train.lm.chat import has_chat_template
from sae_train.lm.models import LanguageModel, load_lm, weights_hash
from sae_train.progress import shown
from sae_train.runs import claim_output, text_hash


def choose_rule(given: dict[str, Any], *, has_samples: bool) -> KnowledgeRule:
    """Return the rule: without a name `ferrando` where answers are sampled, else `paraphrases`."""
    name = given["name"] or (FERRANDO if has_samples else PARAPHRASES)
    fields = ("min_known_attributes", "min_right_share", "min_sample_share")
    return KnowledgeRule(name=name, **{f: given[f] for f in fields})


def ask_and_label(
    given: dict[str, Any], out: Path, *, overwrite: bool, resume: bool
) -> tuple[list[Entity], KnowledgeRule]:
    """Ask the model about every entity and write the label file; an interrupted run leaves OUT.partial.

    Returns:
        The labelled entities, and the rule.

    Raises:
        InputError: Something that goes in cannot be used, or the output is there already.
    """
    if resume and out.is_file() and not overwrite:
        raise OutputExistsError(
            f"the run is finished: '{out}'", got=f"{out} (--out) with --resume", expected="an interrupted run"
        )
    claim_output(out, overwrite=overwrite, resume=resume)
    rule = choose_rule(given, has_samples=bool(given["samples"]))
    samples = RULES[rule.name].samples if given["samples"] is None else given["samples"]
    decoding = replace(GREEDY, samples=samples, temperature=given["temperature"], seed=given["seed"])
    if RULES[rule.name].samples and not samples:
        raise ConfigError(
            f"the rule '{rule.name}' reads samples", got="--samples 0", expected="1 or more, 10 by default"
        )
    subjects = load_entities(given["entities"], duplicates=given["duplicates"])
    templates = load_templates(given["templates"])
    check_types(subjects, templates)
    lm = load_lm(given["model"], device=given["device"], dtype=given["lm_dtype"])
    chat = given["chat"] == "on" or (given["chat"] == "auto" and has_chat_template(lm.tokenizer))
    plain = [p for e in subjects for p in questions(e, templates, heldout=False)]
    prompts = [in_chat(p, lm.tokenizer) for p in plain] if chat else plain
    job = _job(lm, subjects, prompts, decoding, chat)
    with AnswerLog(out, job, resume=resume) as log, shown("asking", len(prompts)) as advance:
        labelled = label_entities(lm, subjects, templates, rule, decoding=decoding, chat=chat, log=log, advance=advance)
        log.finish(labelled)
    return labelled, rule


def _job(
    lm: LanguageModel, entities: Sequence[Entity], prompts: Sequence[Prompt], decoding: Decoding, chat: bool
) -> dict[str, Any]:
    """Return what decides the answers."""
    return {
        "model": weights_hash(lm.model),
        "tokenizer": lm.tokenizer_hash,
        "entities": text_hash(map(entity_line, entities)),
        "questions": text_hash(p.text for p in prompts),
        **asdict(decoding),
        "chat": chat,
    }


def label_again(given: dict[str, Any]) -> tuple[list[Entity], KnowledgeRule]:
    """Apply a rule to the answers of a label file; without a rule's name, and without samples in it, `paraphrases`.

    Raises:
        ConfigError: The file holds no answers, or the rule reads samples and there are none.
    """
    kept = load_entities(given["labels"], need_labels=True)
    if not any(e.answers for e in kept):
        raise ConfigError("there are no answers to judge", got=f"{given['labels']} (--labels)", expected="kept answers")
    rule = choose_rule(given, has_samples=all(e.samples for e in kept if e.answers))
    return relabel(kept, rule), rule


def counts_of(labelled: Sequence[Entity]) -> dict[str, int]:
    """Return the entities per label, and the questions asked."""
    counts = {label: sum(e.label == label for e in labelled) for label in LABELS}
    return {**counts, "questions": sum(len(said) for e in labelled for said in e.answers.values())}


def stats_of(labelled: Sequence[Entity], rule: KnowledgeRule, seed: int) -> dict[str, Any]:
    """Return the tables of `--stats` as JSON prints them."""
    found = label_stats(labelled, rule, seed=seed)
    return {
        "groups": [row._asdict() for row in found.rows],
        "verdicts": found.verdicts,
        "known_by_chance": found.known_by_chance,
        "examples": [row._asdict() for row in found.examples],
    }


def print_stats(stats: dict[str, Any]) -> None:
    """Print the tables of `--stats`."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    groups = [[*row.values()] for row in stats["groups"]]
    console.print(result_table("Entities", groups, ["by", "group", "n", *LABELS]))
    verdicts = [[label, *counts.values()] for label, counts in stats["verdicts"].items()]
    heads = ["label", *next(iter(stats["verdicts"].values()))]
    console.print(result_table("Greedy answers", verdicts, heads))
    examples = [[*row.values()] for row in stats["examples"]]
    console.print(
        result_table("Some answers", examples, ["label", "entity", "about", "truth", "said", "samples right"])
    )
    console.print(f"Known if judged by another entity's facts: {stats['known_by_chance']:.1%}")
