"""The tables of `wb label-entities --stats`. Imported only by that command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from cli.output.render import PIPE_WIDTH, emit, result_table
from features.entities.entities import LABELS
from features.labels.labels import Labels


def stats_of(labels: Labels, seed: int) -> dict[str, Any]:
    """Return the tables as JSON prints them."""
    found = labels.stats(seed)
    return {
        "groups": [row._asdict() for row in found.rows],
        "verdicts": found.verdicts,
        "known_by_chance": found.known_by_chance,
        "examples": [row._asdict() for row in found.examples],
    }


def print_stats(stats: dict[str, Any]) -> None:
    """Print the tables."""
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


def show_labels(found: Labels, out: Path | None, *, seed: int, stats: bool, as_json: bool) -> None:
    """Print the counts and, if asked, the tables."""
    assert found.rule is not None, "labels that were made here know their rule"
    result = {"out": out and str(out), "rule": found.rule.name, **found.counts, "questions": found.n_questions}
    shown = stats_of(found, seed) if stats else None
    emit(result | ({"stats": shown} if shown else {}), as_json=as_json, title="Labels")
    if shown and not as_json:
        print_stats(shown)
