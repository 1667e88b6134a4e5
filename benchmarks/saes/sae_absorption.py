"""How much do SAEs absorb and split known features, by architecture? Planted families and the embedded world, three seeds.

    python -m benchmarks.saes.sae_absorption --out RUN [--docs docs/results/sae_absorption.md] [--seeds 0 1 2] [--only topk] [--small]

In the world `family` (benchmarks/saes/sae_variants.py) the features are the six most frequent parents: directions that
their children are never on without. In `fact-world` they are, at the last token of a name, the four types (person, city,
song, film), and whether the world tells facts about it (of all types together and of each); single names are the
children. A figure is the mean over the features that a probe of the activations can tell; what is in RUN/results.json is
not measured again.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.saes.made_store import HOOK_POINT, write_store
from benchmarks.saes.results_file import ResultsFile, options
from benchmarks.saes.sae_absorption_page import render
from benchmarks.saes.sae_variants import FACT_WORLD, SIZES, SMALL, planted
from features import load_entities, load_templates
from features.entities.collect import name_activations
from features.entities.prompts import contexts
from features.factworld import shipped_world
from features.probing.absorption import Absorption, absorption
from sae_train import ActivationStore, Sae, cache_activations, load_lm, train_sae
from sae_train.run.progress import silent

ARCHS = ("topk", "batch-topk", "jumprelu", "matryoshka")
WORLDS = ("family", "fact-world")
N_PARENTS = 6
N_CONTEXTS = 3  # of each entity
WORLD_HOOK_POINT = "layers.2"
MOST_ROWS = 4_000  # held out, on which absorption is judged


class Judged(NamedTuple):
    """An SAE, and by group of features what was found."""

    sae: Sae
    features: dict[str, list[Absorption]]


def figures(found: list[Absorption]) -> dict[str, float]:
    """Return the means over features that the probe of activations can tell."""
    told = [one for one in found if np.isfinite(one.absorbed.value)]
    values = [
        {
            "absorbed": one.absorbed.value,
            "missed": one.missed.value,
            "split": one.split.n,
            "f1_first": one.split.f1[0],
            "f1_split": one.split.f1[one.split.n - 1],
            "auroc": one.probe.value,
        }
        for one in told
    ]
    return {"features": len(told)} | {name: float(np.mean([v[name] for v in values])) for name in (values or [{}])[0]}


def family(out: Path, arch: str, seed: int, sizes: dict[str, int]) -> Judged:
    """Train on a planted family and judge the most frequent parents on held-out rows."""
    made, path = planted("family", seed, sizes), out / f"family-{seed}.h5"
    if not path.exists():
        write_store(path, made.rows.split(16_384), rows=len(made.rows), d_in=sizes["d_in"], dtype="float32")
    how = {"k": sizes["on"], "d_sae": sizes["latents"], "batch_size": sizes["batch"], "lr": 3e-3}
    tokens = sizes["batch"] * sizes["steps"]
    sae = train_sae(path, HOOK_POINT, arch=arch, seed=seed, tokens=tokens, device="cpu", progress=silent, **how)
    with ActivationStore(path) as store:
        use = np.flatnonzero(store.holdout_rows(0.05, seed))[:MOST_ROWS]
    acts, truth = made.rows[torch.from_numpy(use)], made.directions.double().numpy()
    judged = [
        absorption(sae, acts, made.on[use, parent], np.arange(len(use)), direction=truth[parent], seed=seed)
        for parent in range(N_PARENTS)
    ]
    return Judged(sae, {"family": judged})


def named() -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Return activations at last name tokens of the shipped world: with them type, what is told of it, whose name."""
    world, found = shipped_world(), []
    templates = load_templates(world / "templates.json")
    for entity in load_entities(world / "entities.jsonl"):
        if entity.seen in ("facts", "never"):
            found += [(entity, prompt) for prompt in contexts(entity, templates)[:N_CONTEXTS]]
    lm = load_lm("fact-world", device="cpu")
    acts = name_activations(lm, [prompt for _, prompt in found], [WORLD_HOOK_POINT])[WORLD_HOOK_POINT]
    return acts, *(np.array([getattr(entity, key) for entity, _ in found]) for key in ("type", "seen", "name"))


def fact_world(out: Path, arch: str, seed: int, sizes: dict[str, int]) -> Judged:
    """Train on the embedded world and judge at names: of which type, and whether the world tells facts about it."""
    path = out / "fact-world.h5"
    if not path.exists():
        cache_activations("fact-world", "fact-world", [WORLD_HOOK_POINT], out=path, max_tokens=40_000, progress=silent)
    size = FACT_WORLD if sizes == SIZES else FACT_WORLD | {"tokens": 20_000}
    sae = train_sae(path, WORLD_HOOK_POINT, arch=arch, seed=seed, device="cpu", progress=silent, **size)
    acts, kinds, seen, names = named()
    told = [absorption(sae, acts, seen == "facts", names, seed=seed)]
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        told.append(absorption(sae, acts[torch.from_numpy(own)], seen[own] == "facts", names[own], seed=seed))
    types = [absorption(sae, acts, kinds == kind, names, seed=seed) for kind in np.unique(kinds)]
    return Judged(sae, {"fact-world, type": types, "fact-world, known": told})


def main() -> None:
    """Measure what is not there yet and, if asked, write the page."""
    parser = options(__doc__)
    parser.add_argument("--only", help="Architecture.")
    args = parser.parse_args()
    sizes = SMALL if args.small else SIZES
    results = ResultsFile(parser, args.out, sizes)
    for seed, world, arch in itertools.product(args.seeds, WORLDS, ARCHS):
        is_there = any(key.startswith(world) and key.endswith(f"/{arch}/{seed}") for key in results.runs)
        if not is_there and args.only in (None, arch):
            sae, features = (family if world == "family" else fact_world)(args.out, arch, seed, sizes)
            own = {"fvu": sae.metrics["fvu"], "l0": sae.metrics["l0"]}
            results.keep({f"{name}/{arch}/{seed}": own | figures(found) for name, found in features.items()})
    if args.docs is not None:
        args.docs.write_text(render(results.found, args.docs), encoding="utf-8")


if __name__ == "__main__":
    main()
