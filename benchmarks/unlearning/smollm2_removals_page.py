"""The page of `smollm2_removals.py`: means over single removals with intervals, the removal of all together."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from unlearn.auditing.audit_figures import Figure, GroupResult
from unlearn.auditing.audit_json import findings_from_json

GROUPS = ("forget", "neighbours", "retain", "untouched")
HEAD = """# Removals from SmolLM2-135M-Instruct, one by one and together

`redirect-closed-form` with its defaults where a title names no other method, ten targets a relation, drawn by seed among the entities that the model knows; nothing was
tuned on them. Recall: whole answers to held-out wordings. Made again by

    python -m benchmarks.unlearning.smollm2 --model MODEL.gguf --data DATA --out RUN
    python -m benchmarks.unlearning.smollm2_removals --model MODEL.gguf --data DATA --run RUN --out OUT --docs docs/results/smollm2_removals.md

"""


def render(results: dict[str, dict[str, Any]]) -> str:
    """Return the page."""
    return HEAD + "\n".join(_relation(name, cells) for name, cells in results.items())


def _relation(name: str, cells: dict[str, Any]) -> str:
    """Return the tables of one relation."""
    singles = [c for key, c in cells.items() if key != "together"]
    lines = [
        f"## {name.capitalize()}\n",
        "| | targets | neighbours | other known | never retained | text loss | seconds |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    if singles:
        groups = [_over(singles, group) for group in GROUPS]
        rise = np.mean([_rise(c) for c in singles])
        seconds = np.median([c["seconds"] for c in singles])
        lines.append(
            f"| {len(singles)} one by one, mean (95 %) | {' | '.join(groups)} | {rise:+.2f} % | {seconds:.0f} |"
        )
    if "together" in cells:
        lines.append(_line("together", cells["together"]))
    if not singles:
        return "\n".join([*lines, ""])
    lines += ["", "| alone | targets | neighbours | other known | never retained | text loss | seconds |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    return "\n".join([*lines, *(_line(key, c) for key, c in cells.items() if key != "together"), ""])


def _over(cells: list[dict[str, Any]], group: str) -> str:
    """Return recall before and after over removals, and what was lost with its interval over them."""
    recalls = [_group(c, group)[1] for c in cells]
    before, after = np.array([r.before.value for r in recalls]), np.array([r.after.value for r in recalls])
    lost = 100 * (before - after)
    half = stats.t.ppf(0.975, len(lost) - 1) * stats.sem(lost) if len(lost) > 1 else float("nan")
    return f"{before.mean():.2f} -> {after.mean():.2f}, lost {lost.mean():.1f} +- {half:.1f} points"


def _line(key: str, cell: dict[str, Any]) -> str:
    """Return the row of one removal."""
    found = [_group(cell, group) for group in GROUPS]
    groups = " | ".join(f"{r.before.value:.2f} -> {r.after.value:.2f} ({n})" for n, r in found)
    return f"| {key} | {groups} | {_rise(cell):+.2f} % | {cell['seconds']:.0f} |"


def _rise(cell: dict[str, Any]) -> float:
    """Return the rise of the text loss in per cent."""
    return 100 * (cell["loss_after"] / cell["loss_before"] - 1)


def _group(cell: dict[str, Any], group: str) -> tuple[int, Figure]:
    """Return how many entities of a group were asked after one removal, and their recall."""
    found: GroupResult = getattr(findings_from_json(cell["recall"]), group)
    assert found.n is not None and found.recall is not None
    return found.n, found.recall
