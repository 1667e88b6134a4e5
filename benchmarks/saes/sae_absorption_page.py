"""The page that benchmarks/saes/sae_absorption.py writes from its results."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from scipy.stats import t

COLUMNS = {"features": "features", "fvu": "FVU", "l0": "L0", "absorbed": "absorbed", "missed": "missed", "f1_first": "F1, one latent", "split": "latents of a feature", "f1_split": "F1, all of them", "auroc": "AUROC of activations"}  # fmt: skip
COMMAND = "python -m benchmarks.saes.sae_absorption --out RUN --docs docs/results/sae_absorption.md"
WORDS, SCORES = "## What this shows\n\n", "\n\n## Figures"


def interval(values: list[float], digits: int = 3) -> str:
    """Render the mean over seeds with its 95 % interval by Student's t; one seed has none."""
    if not values:
        return "–"
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    half = float(t.isf(0.025, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def render(results: dict[str, Any], page: Path) -> str:
    """Write the page anew; the words written by hand stay."""
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    words = old.partition(WORDS)[2].partition(SCORES)[0].strip() or "(to be written)"
    grouped: dict[tuple[str, str], list[dict[str, float]]] = {}
    for key, found in results["runs"].items():
        world, arch, _ = key.split("/")
        grouped.setdefault((world, arch), []).append(found)
    n_seeds, sizes = max(map(len, grouped.values())), results["sizes"]
    lines = [
        "# Do SAEs absorb and split features?",
        "",
        f"{results['date']}, torch {results['torch']}, {n_seeds} seeds of rows and weights: mean ± half of the 95 % interval (Student's t over seeds; with two or three it is wide). "
        f"World `family`: {sizes['features']} planted directions in {sizes['d_in']} dimensions, {sizes['on']} on in the mean, every one but the first 60 on only where its parent, one of these, is; {sizes['latents']} latents, k {sizes['on']}, "
        f"{sizes['steps']} steps of {sizes['batch']} rows ([variants](sae_recovery.md#variants-of-the-losses)); features are the six most frequent parents. `fact-world`: layers.2 of the embedded model (40,000 rows, 4 times as many latents as dimensions, k 8, 400,000 tokens); features are, at the last tokens of names, the four "
        "types, and whether the world tells facts about the name (`known`: of all types together, and of each that a probe can tell). Definitions: `features/probing/absorption.py` and `splitting.py`. Made again by",
        "",
        f"    {COMMAND}",
        "",
        WORDS + words + SCORES,
        "",
        f"| world | architecture | {' | '.join(COLUMNS.values())} |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for names, found in sorted(grouped.items()):
        cells = [
            interval([run[c] for run in found if c in run], 1 if c in ("features", "l0", "split") else 3)
            for c in COLUMNS
        ]
        lines.append(f"| {' | '.join(names)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
