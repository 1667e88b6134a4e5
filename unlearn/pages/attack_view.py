"""The attacks on the audit page: recall after each, the path of those by lessons, the highest of each reading on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from features.pages.plots import FAINT, NBSP, TARGET, Number, is_number, percent
from unlearn.auditing.attack_results import READINGS, AttackResult, Highest
from unlearn.pages import plots

LESSONS = {
    "entities": (
        "Lessons about other names in the targets’ sentence forms",
        "names never known; nothing is taught about either",
    )
}  # title and what is dashed, by what was parted
OF_TARGETS = ("Lessons about some facts, questions about others", "names never known, given the same lessons")


def attack_view(attacks: Mapping[str, AttackResult]) -> dict[str, Any] | None:
    """Return the figure of the attacks, a row for each, and the paths of those by lessons; None without any."""
    if not attacks:
        return None
    rows: list[tuple[str, Number, str, float]] = []
    for name, result in attacks.items():
        rows.append((name, result.recall_after.value, TARGET, 1.0))
        if is_number(result.compared.value):
            rows.append((f"vs {result.compared_with}", result.compared.value, FAINT, 0.7))
    paths = [path for name, result in attacks.items() if (path := _path(name, result)) is not None]
    return {
        "svg": Markup(plots.value_bars("attacks", "Recall after each attack", rows)),
        "rows": list(attacks.items()),
        "paths": paths,
    }


def _path(name: str, result: AttackResult) -> dict[str, Any] | None:
    """Return the curve of one attack by lessons, and its highest readings; None of one that gave no lesson."""
    lessons = result.relearning
    if lessons is None or not any(point.step for point in lessons.curve):
        return None
    title, dashed = LESSONS.get(lessons.split, OF_TARGETS)
    return {
        "title": title,
        "dashed": dashed,
        "svg": Markup(plots.attack_curves(f"path-{name}", title, lessons.curve)),
        "highest": "; ".join(_highest(READINGS[reading], most) for reading, most in lessons.highest.items()),
    }


def _highest(words: str, most: Highest) -> str:
    """Say how high one reading comes, and where."""
    return (
        f"{words} {percent(most.target.value)} ({_where(most.target_step, most.target_lr)}; "
        f"never known {percent(most.control.value)}; original model {percent(most.before)})"
    )


def _where(step: int, lr: float) -> str:
    return f"{step}{NBSP}steps at {lr:g}" if step else "no lesson"
