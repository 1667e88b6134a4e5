"""How far the rule without an answer key agrees with Ferrando's rule, which has one.

    python -m benchmarks.labelling.self_consistent --model MODEL --entities E --templates T [--n 400] [--samples 10]

Both rules judge the same answers, so they differ in the judgement alone. Prints one JSON object: counts of each pair of
labels; over the entities that both call known or unknown, how many they call alike with Wilson's 95 % interval and
Cohen's kappa; both over all three labels as well; how many known answers are wrong by the key; and the control: of
names made up in the likeness of the set's, how many the rule calls known.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.metrics import cohen_kappa_score

from features import label_entities, load_entities, load_templates
from features.entities.entities import LABELS, Entity
from features.labels.labels import Labels
from features.labels.made_up import made_up
from features.labels.matching import is_right
from features.stats.intervals import wilson
from sae_train.lm.models import load_lm
from sae_train.rng import rng

CONTROL_SEED = 1  # other made-up names than those that the rule itself asks about
FIRM = ("known", "unknown")


def frac(hits: int, n: int) -> dict[str, Any]:
    """Return a share with its interval; nulls where there is nothing to count."""
    if not n:
        return {"n": 0, "hits": 0, "value": None, "low": None, "high": None}
    low, high = wilson(hits, n)
    return {"n": n, "hits": hits, "value": hits / n, "low": float(low), "high": float(high)}


def agreement(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return how many pairs of labels are alike, and Cohen's kappa; null where only one label occurs."""
    alike = frac(sum(a == b for a, b in pairs), len(pairs))
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    kappa = cohen_kappa_score(first, second) if len({*first, *second}) > 1 else None
    return {**alike, "kappa": None if kappa is None else float(kappa)}


def said_and_right(own: Sequence[Entity]) -> dict[str, Any]:
    """Return how many answers that the rule calls known are right by the facts the entities came with."""
    said = [
        (e.agreed[a]["answer"], e.given_facts[a])
        for e in own
        if e.label == "known" and e.agreed is not None and e.given_facts is not None
        for a in e.agreed
        if a in e.given_facts and e.facts[a][0] == e.agreed[a]["answer"]
    ]
    return frac(sum(is_right(answer, given) for answer, given in said), len(said))


def compare(own: Labels, by_key: Labels) -> dict[str, Any]:
    """Return counts and agreement of two labellings of the same entities."""
    pairs = [(str(a.label), str(b.label)) for a, b in zip(own, by_key, strict=True)]
    counts = Counter(pairs)
    return {
        "counts": {a: {b: counts[a, b] for b in LABELS} for a in LABELS},  # rows: self-consistent
        "known_or_unknown": agreement([p for p in pairs if set(p) <= set(FIRM)]),
        "all_labels": agreement(pairs),
        "known_answers_right": said_and_right(own),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--entities", required=True)
    parser.add_argument("--templates", required=True)
    parser.add_argument("--n", type=int, default=400, help="Entities, drawn; 0 takes all.")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="Where the labels go, to be looked at.")
    args = parser.parse_args()
    entities, templates = load_entities(args.entities), load_templates(args.templates)
    if args.n and args.n < len(entities):
        order = rng("benchmark.labelling.entities", args.seed).permutation(len(entities))[: args.n]
        entities = [entities[i] for i in sorted(order)]
    lm = load_lm(args.model, device=args.device)
    asked = {"templates": templates, "rule": "self-consistent", "samples": args.samples, "seed": args.seed}
    own = label_entities(lm, entities, out=args.out, **asked)
    nobody = label_entities(lm, made_up(entities, seed=CONTROL_SEED), **asked)
    found = compare(own, own.relabel("ferrando"))
    control = frac(nobody.counts["known"], len(nobody))
    about = {"model": lm.name, "entities": len(own), "samples": args.samples}
    print(json.dumps({**about, **found, "made_up_known": control}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
