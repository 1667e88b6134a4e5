"""The page that benchmarks/saes/sae_recovery.py writes from its results."""

from __future__ import annotations

import statistics
from typing import Any

COLUMNS = {
    "mcc": "MCC",
    "uniqueness": "uniqueness",
    "f1": "F1",
    "explained_variance": "explained variance",
    "l0": "L0",
    "dead": "dead",
}
COMMAND = "python -m benchmarks.saes.sae_recovery --out RUN --docs docs/results/sae_recovery.md"


def spread(values: list[float], digits: int) -> str:
    """Render a mean with the lowest and the highest."""
    mean, low, high = statistics.mean(values), min(values), max(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def gap(runs: dict[str, dict[str, float]], arch: str, other: str) -> str:
    """Render our MCC minus another trainer's, for every seed that both have."""
    seeds = [key.split("/")[2] for key in runs if key.startswith(f"{arch}/ours/")]
    pairs = [(runs[f"{arch}/ours/{s}"], runs.get(f"{arch}/{other}/{s}")) for s in seeds]
    return ", ".join(f"{a['mcc'] - b['mcc']:+.3f}" for a, b in pairs if b is not None) or "–"


def render(results: dict[str, Any], words: str) -> str:
    """Write the page; `words` is the paragraph written by hand."""
    runs: dict[str, dict[str, float]] = results["runs"]
    sizes = results["sizes"]
    grouped: dict[tuple[str, str], list[dict[str, float]]] = {}
    for key, found in runs.items():
        arch, system, _ = key.split("/")
        grouped.setdefault((arch, system), []).append(found)
    n_seeds = max(map(len, grouped.values()))
    some = next(iter(runs.values()))
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        "# Do SAEs find the true directions?",
        "",
        f"{results['date']}, {versions}. SAELens' `SyntheticModel` with its own settings: {sizes['n_features']} features in "
        f"{sizes['d_in']} dimensions, {some['true_l0']:.2f} on per row; {sizes['n_features']} latents, k {some['k']}, batch "
        f"{sizes['batch']:,}, {sizes['steps'] * sizes['batch']:,} rows of {sizes['rows']:,} stored ones; {'one seed' if n_seeds == 1 else f'{n_seeds} seeds'} of model, rows "
        f"and weights{'' if n_seeds == 1 else ': mean (lowest to highest)'}. Scores are SAELens', on rows nobody trained on. Made again by",
        "",
        f"    {COMMAND}",
        "",
        "## What this shows",
        "",
        words,
        "",
        "## Scores",
        "",
        f"| architecture | trainer | {' | '.join(COLUMNS.values())} |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for (arch, system), found in grouped.items():
        cells = [spread([run[name] for run in found], 1 if name in ("l0", "dead") else 3) for name in COLUMNS]
        lines.append(f"| {arch} | {system} | {' | '.join(cells)} |")
    lines += [
        "",
        "| architecture | MCC, ours minus SAELens' at the same settings, seed by seed | ours minus its default |",
    ]
    lines += ["|---|---|---|"]
    for arch in dict.fromkeys(arch for arch, _ in grouped):
        gaps = [gap(runs, arch, other) for other in ("saelens", "saelens-default-lr")]
        lines.append(f"| {arch} | {' | '.join(gaps)} |")
    return "\n".join(lines) + "\n"
