"""Latents of known and unknown entities: how good, how fast, and what label shuffles and controls say.

    python -m benchmarks.entities.entity_latents --out RUN [--parts speed fact-world cities] [--docs docs/results/entity_latents.md]
        [--worlds seed0 W1 W2] [--seeds 5]
        [--names cities.h5 --activations acts.h5 --sae SAE …]        (cities)

speed: all statistics of 16,384 latents at 4 hook points on 2,000 entities, against a loop over latents with the same scipy
tests; the loop runs on a sample of latents and is scaled. fact-world: per world, labels and an activation store (kept in
RUN and not made again), SAEs of several seeds at one hook point, mined together. cities: `--names` is what
`wb find-entity-latents --acts-out` wrote. How many latents are selected is chosen by the cross-validated AUROC of the mining
half. Figures go to RUN/results.json as they come, and from there to the page.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.sparse import csr_array

from benchmarks.entities.entity_latents_page import render
from features import Labels, LatentAnalysis, NameData, collect_names, find_entity_latents
from features.entities.name_acts import load_names
from features.factworld import shipped_world
from features.stats.hypothesis_tests import q_values
from features.stats.permutation import maxmin_null, shuffled_labels
from features.stats.selection import split_entities
from features.stats.separation import EntityLatents, entity_latents, separation
from sae_train import ActivationStore, Sae, train_sae
from sae_train.rng import rng
from sae_train.run.progress import silent
from sae_train.run.runs import jsonable

PARTS = ("speed", "fact-world", "cities")
HOOK_POINT = "layers.2"
TOPS = (5, 10, 20, 40, 80)
N_SHUFFLES = 20


# ---------------------------------------------------------------------------------------------------------------- speed
def random_contexts(n_contexts: int, d_sae: int, k: int, seed: int) -> csr_array:
    """Draw k latents a context; few of them often, most of them rarely, as in a trained SAE."""
    generator = rng("benchmark.latents.contexts", seed)
    share = 1.0 / np.arange(1, d_sae + 1)
    column = generator.choice(d_sae, (n_contexts, k), p=share / share.sum()).ravel()
    row = np.repeat(np.arange(n_contexts), k)
    return csr_array((generator.gamma(2.0, 1.0, len(row)), (row, column)), shape=(n_contexts, d_sae))


def loop_seconds(latents: EntityLatents, known: np.ndarray, kind: np.ndarray, columns: np.ndarray) -> float:
    """Time the same tests one latent at a time, with scipy."""
    share, value = latents.frac_firing[:, columns].toarray(), latents.value[:, columns].toarray()
    started = time.perf_counter()
    for s, v in zip(share.T, value.T, strict=True):
        [s[known & (kind == t)].mean() - s[~known & (kind == t)].mean() for t in np.unique(kind)]
        stats.ttest_ind(s[known], s[~known], equal_var=False).confidence_interval(0.95)
        fires = [s[side] >= 0.5 for side in (known, ~known)]
        table = [[f.sum(), (~f).sum()] for f in fires]
        [stats.fisher_exact(table, alternative=a).pvalue for a in ("less", "greater")]
        stats.mannwhitneyu(v[known], v[~known], method="asymptotic")
    return time.perf_counter() - started


def speed(n_entities: int = 2000, n_templates: int = 9, d_sae: int = 16_384, n_hooks: int = 4) -> dict[str, Any]:
    """Return seconds of the statistics, of the loop and of the null."""
    generator = rng("benchmark.latents.entities", 0)
    known, kind = generator.random(n_entities) < 0.5, generator.integers(0, 4, n_entities)
    entity = np.repeat(np.arange(n_entities), n_templates)
    hooks = [random_contexts(len(entity), d_sae, 32, h) for h in range(n_hooks)]
    started = time.perf_counter()
    latents = [entity_latents(h, entity, n_entities) for h in hooks]
    averaged = time.perf_counter()
    scores = [separation(one, known, kind, 4) for one in latents]
    q_values(np.concatenate([s.p_value for s in scores]))
    tested = time.perf_counter()
    labels = shuffled_labels(known, kind, 1000, 0)
    [maxmin_null(one.frac_firing, labels, kind, np.ones(d_sae, bool)) for one in latents]
    shuffled = time.perf_counter()
    with np.errstate(all="ignore"):
        sample = generator.choice(d_sae, 100, replace=False)
        loop = loop_seconds(latents[0], known, kind, sample) * n_hooks * d_sae / len(sample)
    ours = tested - averaged
    return {
        "n_entities": n_entities,
        "n_latents": n_hooks * d_sae,
        "n_templates": n_templates,
        "average_s": averaged - started,
        "tests_s": ours,
        "null_s": shuffled - tested,
        "n_label_shuffles": len(labels),
        "loop_sample": len(sample),
        "loop_s": loop,
        "times": loop / ours,
    }


# ----------------------------------------------------------------------------------------------------------- fact worlds
def world_inputs(world: Path, out: Path) -> tuple[NameData, Path]:
    """Return names and store of a world; labels and store are those of `wb demo` on it."""
    from unlearn import run_demo

    folder = out / world.name
    if not (folder / "labels.jsonl").exists() or not (folder / "acts.h5").exists():
        run_demo(folder, world=world, device="cpu", progress=silent)
    if not (folder / "names.h5").exists():
        labels = Labels.load(folder / "labels.jsonl", templates=world / "templates.json")
        collect_names(str(world), labels, HOOK_POINT, out=folder / "names.h5", device="cpu", progress=silent)
    return load_names(folder / "names.h5"), folder / "acts.h5"


def world_saes(acts: Path, seeds: int) -> list[Sae]:
    """Train SAEs that differ by seed only, with the demo's settings."""
    found = []
    for seed in range(seeds):
        folder = acts.parent / f"sae-seed-{seed}"
        if not (folder / "cfg.json").exists():
            settings = {"k": 8, "expansion": 2, "tokens": 400_000, "batch_size": 1024, "frac_holdout": 0.1}
            train_sae(
                acts, HOOK_POINT, out=folder, overwrite=True, device="cpu", progress=silent, seed=seed, **settings
            )
        found.append(Sae.load(folder, device="cpu"))
    return found


def silent_shuffles(data: NameData, sae: Sae) -> int:
    """Return in how many label shuffles no latent passes q < 0.05 on the mining half."""
    mining = ~split_entities(data.entities, 0)
    types = list(dict.fromkeys(e.type for e in data.entities))
    known = np.array([e.label == "known" for e in data.entities])[mining]
    kind = np.array([types.index(e.type) for e in data.entities])[mining]
    with torch.no_grad():
        contexts = csr_array(sae.encode(data.at(sae.hook_point)).numpy())
    latents = entity_latents(contexts, data.entity, len(data.entities)).take(mining)
    rows = shuffled_labels(known, kind, N_SHUFFLES, 1)
    return sum(not (q_values(separation(latents, r, kind, len(types)).p_value) < 0.05).any() for r in rows)


def best_unknown(analysis: LatentAnalysis, index: int) -> dict[str, Any]:
    """Return the held-out figures of the unknown latent that is best on the mining half."""
    found = analysis.hook_points[index]
    j = int(np.argmax(found.mining.maxmin_unknown))
    return {
        "latent": j,
        "maxmin": float(found.mining.maxmin_unknown[j]),
        "separation": -float(found.heldout.score[j]),
        "low": -float(found.heldout.high[j]),
        "high": -float(found.heldout.low[j]),
        "auroc": 1 - float(found.heldout.auroc[j]),
        "score": found.score.value,
        "score_low": found.score.low,
        "score_high": found.score.high,
        "probe": found.probe.value,
        "n_selected": {d: len(found.selected[d]) for d in found.selected},
        "best_known_maxmin": float(found.mining.maxmin_known.max()),
        "fvu_at_names": found.fvu_at_names,
        "tables": {k: found.tables[k] for k in ("controls", "covariates", "stability")},
    }


def fact_world(world: Path, out: Path, seeds: int) -> dict[str, Any]:
    """Mine one world with SAEs of several seeds."""
    data, acts = world_inputs(world, out)
    saes = world_saes(acts, seeds)
    analysis = find_entity_latents(None, saes, names=data, store=acts, max_general_rate=1.0)
    return {
        "n_entities": len(data.entities),
        "saes": [best_unknown(analysis, i) for i in range(seeds)],
        "finding": analysis.tables["finding"],
        "silent_shuffles": silent_shuffles(data, saes[0]),
    }


# --------------------------------------------------------------------------------------------------------------- cities
def cities(names: Path, acts: Path, saes: list[Path]) -> dict[str, Any]:
    """Mine a real model; the number of selected latents is chosen on the mining half."""
    data, loaded = load_names(names), [Sae.load(s, device="cpu") for s in saes]
    tried: list[dict[str, Any]] = []
    with ActivationStore(acts) as store:
        for top in TOPS:
            analysis = find_entity_latents(None, loaded, names=data, store=store, top=top, min_separation=0.05)
            for found in analysis.hook_points:
                tried.append(
                    {
                        "hook_point": found.hook_point,
                        "sae": found.sae,
                        "top": top,
                        "n_known": len(found.selected["known"]),
                        "n_unknown": len(found.selected["unknown"]),
                        "mining": found.mining_auroc,
                        "score": found.score.value,
                        "low": found.score.low,
                        "high": found.score.high,
                        "probe": found.probe.value,
                        "probe_low": found.probe.low,
                        "probe_high": found.probe.high,
                        "fvu_at_names": found.fvu_at_names,
                        "rows": {d: found.rows(d)[:5] for d in found.selected},
                        "tables": {k: found.tables[k] for k in ("controls", "covariates", "stability")},
                    }
                )
    best = max((t for t in tried if "score" in t["mining"]), key=lambda t: t["mining"]["score"], default=None)
    return {
        "n_known": sum(e.label == "known" for e in data.entities),
        "n_unknown": sum(e.label == "unknown" for e in data.entities),
        "tried": [{k: v for k, v in t.items() if k not in ("rows", "tables")} for t in tried],
        "best": best,
        "finding": analysis.tables["finding"],
    }


def main() -> None:
    """Run the parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--worlds", nargs="*", type=Path, default=[shipped_world()])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--activations", type=Path)
    parser.add_argument("--sae", type=Path, nargs="*", default=[])
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(part: str, found: Any) -> None:
        results[part] = jsonable(found)
        path.write_text(json.dumps(results, indent=1), encoding="utf-8")

    if "speed" in args.parts:
        keep("speed", speed())
    if "fact-world" in args.parts:
        worlds = results.get("fact-world", {})
        for world in args.worlds:
            if world.name not in worlds:
                worlds = {**worlds, world.name: fact_world(world, args.out, args.seeds)}
                keep("fact-world", worlds)
    if "cities" in args.parts and args.names is not None:
        keep("cities", cities(args.names, args.activations, args.sae))
    if args.docs is not None:
        args.docs.write_text(render(results, hook_point=HOOK_POINT, n_shuffles=N_SHUFFLES), encoding="utf-8")


if __name__ == "__main__":
    main()
