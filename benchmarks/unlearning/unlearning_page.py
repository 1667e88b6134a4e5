"""The page of the unlearning benchmark, made from its cells alone."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.unlearning.unlearning_measures import score

COLUMNS = (
    ("recall", "recall"),
    ("rank_first", "rank-1"),
    ("neighbours", "neighbours"),
    ("kept", "kept"),
    ("text_loss", "text loss"),
    ("auroc", "AUROC"),
    ("relearned_10", "relearned 10"),
    ("relearned_60", "relearned 60"),
)


def interval(values: list[float]) -> str:
    """Return the mean and, over worlds, its 95 % t-interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    margin = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{mean:.3f} ± {margin:.3f}"


def write_page(cells: Path, page: Path) -> None:
    """Write the table of test cells, best score first, and the settings that were tried."""
    read = [json.loads(p.read_text()) for p in sorted(cells.glob("world-*.json")) if "sequence" not in p.stem]
    before = {(c["world"], c["split"]): c for c in read if c["method"] == "before"}
    tests: dict[str, list[dict[str, Any]]] = defaultdict(list)
    tries: dict[str, int] = defaultdict(int)
    for c in read:
        if c["split"] == "test":
            tests[c["method"]].append(c)
        elif c["method"] != "before":
            tries[c["method"]] += 1
    scores = {m: [score(c, before[c["world"], "test"]) for c in found] for m, found in tests.items() if m != "before"}
    n = {c["n_targets"] for c in before.values()}
    lines = [
        "# Unlearning methods compared",
        "",
        f"{', '.join(map(str, sorted(n)))} targets a world, test targets that no setting was chosen on; score: harmonic mean of (1 - recall),",
        "(1 - rank-1), neighbours kept, others kept, 1 - 2|AUROC - 0.5|, (1 - relearned after 60 steps). Relearning: AdamW at",
        "1e-3 on half of the facts, the other half is asked. Mean over worlds ± 95 % t-interval where there are several.",
        "",
        "| method | score | " + " | ".join(name for _, name in COLUMNS) + " | worlds | settings tried |",
        "|---|" + "---|" * (len(COLUMNS) + 3),
    ]
    for method in ["before", *sorted(scores, key=lambda m: -float(np.mean(scores[m])))]:
        found = [c for c in tests[method] if "recall" in c]
        figures = [interval([c[key] for c in found]) if found else "collapsed" for key, _ in COLUMNS]
        head = "" if method == "before" else interval(scores[method])
        lines.append(f"| {method} | {head} | {' | '.join(figures)} | {len(tests[method])} | {tries[method]} |")
    control = [c for c in tests["before"] if "recall" in c]
    if control:
        low, high = min(c["control_low"] for c in control), max(c["control_high"] for c in control)
        never = [np.mean([c[f"relearned_control_{s}"] for c in control]) for s in (10, 60)]
        lines += [
            "",
            f"Never-seen names among themselves: AUROC {low:.2f} to {high:.2f}; taught like the targets they answer {never[0]:.2f} and",
            f"{never[1]:.2f} of the other half after 10 and 60 steps (on the original model).",
        ]
    lines += ["", "## Settings chosen", "", "| world | method | setting | error |", "|---|---|---|---|"]
    for method, found in tests.items():
        lines += [
            f"| {c['world']} | {method} | `{json.dumps(c['setting'])}` | {c.get('error', '').splitlines()[0] if c.get('error') else ''} |"
            for c in found
            if method != "before"
        ]
    lines += _sequence(cells)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _sequence(cells: Path) -> list[str]:
    """Render the removals in sequence, where they were run."""
    lines: list[str] = []
    for path in sorted(cells.glob("*-sequence.json")):
        rows = json.loads(path.read_text())
        lines += [
            "",
            f"## {len(rows)} removals in sequence, {path.stem.removesuffix('-sequence')}",
            "",
            "| removals | first, recall | all removed, recall | all removed, rank-1 | kept |",
            "|---|---|---|---|---|",
            *(
                f"| {r['n']} | {r['first_recall']:.3f} | {r['removed_recall']:.3f} | {r['removed_rank_first']:.3f} | {r['kept']:.3f} |"
                for r in rows
            ),
        ]
    return lines
