"""A world planted in a real language model: what the model then knows, what its twin does, and what planting costs.

    python -m benchmarks.unlearning.planted_pairs --base MODEL --text TEXT --cache PAIRS [--seeds 0 1 2] [--docs docs/results/planted_pairs.md]

MODEL is a Hugging Face folder; TEXT is general text such as `wikitext2_valid.txt.gz`. Every pair is planted with the defaults and kept in
PAIRS; one that is there is not planted again, one that was interrupted is continued. The page is made from what the pairs say themselves.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.unlearning.unlearning_page import interval
from features import Planted, plant
from sae_train.lm.models import load_lm

ASKED = (("targets", "targets"), ("retained", "retained"), ("mentioned", "only mentioned"), ("never_met", "never met"))
TRAINED = ("base", "model", "twin")


def recall(pair: Planted, model: str, part: str, wordings: str = "heldout") -> float:
    """Return the share of right answers that a pair's record has for one part of the world."""
    return float(pair.figures[model]["recall"][part][wordings])


def text_rise(pair: Planted, model: str) -> float:
    """Return the relative change of the loss on held-out general text against the base."""
    return float(pair.figures[model]["general_loss"] / pair.figures["base"]["general_loss"] - 1)


def render(pairs: dict[int, Planted]) -> str:
    """Return the page: recall by part and wordings, general text, and seconds, with intervals over the seeds."""
    found = list(pairs.values())
    lines = [
        "# Worlds planted in a real language model",
        "",
        "Defaults of `wb world --base`; recall is the share of questions answered right, greedily, in held-out wordings unless said otherwise.",
        f"Seeds {', '.join(map(str, pairs))}; mean over seeds ± 95 % t-interval where there are several. [What a planted pair is](../concepts/planted_truth.md).",
        "",
        "| recall | base | model | twin | model, training wordings |",
        "|---|---|---|---|---|",
    ]
    for part, words in ASKED:
        cells = [interval([recall(p, m, part) for p in found]) for m in TRAINED]
        cells.append(interval([recall(p, "model", part, "training") for p in found]))
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines += [
        "",
        "| | model | twin |",
        "|---|---|---|",
        f"| loss on general text against the base, % | {' | '.join(interval([100 * text_rise(p, m) for p in found]) for m in TRAINED[1:])} |",
        f"| seconds of planting | {' | '.join(interval([p.figures['seconds'][m] for p in found]) for m in TRAINED[1:])} |",
        "",
        "By seed: "
        + "; ".join(
            f"{seed}: targets {recall(p, 'model', 'targets'):.3f}, twin {recall(p, 'twin', 'targets'):.3f}, retained "
            f"{recall(p, 'model', 'retained'):.3f} and {recall(p, 'twin', 'retained'):.3f}, text {text_rise(p, 'model'):+.2%}"
            for seed, p in pairs.items()
        )
        + ".",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Plant what is not there and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    base, settings = load_lm(args.base, device="cpu"), dict[str, Any](text=args.text, cache=args.cache)
    pairs = {seed: plant(base, seed=seed, **settings) for seed in args.seeds}
    if args.docs is not None:
        args.docs.write_text(render(pairs), encoding="utf-8")


if __name__ == "__main__":
    main()
