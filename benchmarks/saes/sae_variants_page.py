"""The part of docs/results/sae_recovery.md that benchmarks/saes/sae_variants.py writes from its results."""

from __future__ import annotations

from typing import Any

from benchmarks.saes.sae_recovery_page import spread

HEADING = "## Variants of the losses"
WORDS = "### What the variants show\n\n"
COLUMNS = {"fvu": "FVU", "l0": "L0", "dead": "dead", "recovered": "found", "cosine": "best cosine", "often": "often", "highest": "highest rate"}  # fmt: skip
COMMAND = "python -m benchmarks.saes.sae_variants --out RUN --docs docs/results/sae_recovery.md"


def with_variants(page: str, results: dict[str, Any]) -> str:
    """Return the page with the part about variants written anew; the words written by hand stay."""
    before, _, old = page.partition(HEADING)
    words = old.partition(WORDS)[2].partition("\n\n### ")[0].strip()
    return before.rstrip() + "\n\n" + variants(results, words or "(to be written)")


def variants(results: dict[str, Any], words: str) -> str:
    """Write the part; `words` is written by hand."""
    runs, sizes = results["runs"], results["sizes"]
    grouped: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for key, found in runs.items():
        world, arch, name, _ = key.split("/")
        grouped.setdefault((world, arch, name), []).append(found)
    n_seeds = max(map(len, grouped.values()))
    lines = [
        HEADING,
        "",
        f"{results['date']}, torch {results['torch']}. {sizes['features']} random unit directions in {sizes['d_in']} dimensions, on with Zipfian probabilities "
        f"(exponent 0.7, {sizes['on']} in the mean), of size 1 to 2; {sizes['latents']} latents, k {sizes['on']}, {sizes['steps']} steps of {sizes['batch']} rows, step size 3e-3, {n_seeds} "
        "seeds of directions, rows and weights: mean (lowest to highest). L1 coefficients of `relu` are those at which L0 is k, or twice that, in the mean over two other seeds. World `dense` has three more directions, on in half of the rows; in `family` "
        "every direction but the first 60 is on only where its parent, one of these, is. `fact-world` is layers.2 of the embedded model (40,000 rows, 4 times as many latents as dimensions, k 8, 400,000 tokens in batches of 512, else defaults; no directions are known). Found: share of the directions (the dense ones left out) with a decoder row of cosine above "
        "0.9. Often: latents that fire on more than a fifth of the rows. Made again by",
        "",
        f"    {COMMAND}",
        "",
        WORDS + words,
        "",
        "### Scores of the variants",
        "",
        f"| world | architecture | variant | {' | '.join(COLUMNS.values())} |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for names, found in grouped.items():
        cells = [
            spread([run[c] for run in found], 1 if c in ("l0", "often") else 3) if c in found[0] else "–"
            for c in COLUMNS
        ]
        l1 = results.get("l1", {}).get("/".join(names))
        shown = names if l1 is None else (*names[:2], f"{names[2]}, coefficient {l1:g}")
        lines.append(f"| {' | '.join(shown)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
