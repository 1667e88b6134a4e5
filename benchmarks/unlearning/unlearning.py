"""Every unlearning method against the others on fact worlds, tuned with the same budget; and removals in sequence.

    python -m benchmarks.unlearning.unlearning --out RUN --demos DEMOS [--parts baselines sequence] [--docs docs/results/unlearning.md]

DEMOS holds demo-0 and, for other seeds, world-N and demo-N, as benchmarks/unlearning/demo_seeds.py leaves them. Every method
gets the same number of settings (`GRIDS`, the method's defaults first), tried on validation targets of the first world; the
best by the score goes to the test targets of every world. One JSON file a cell: what is there is not run again, so that a run can be cut off.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.unlearning.unlearning_measures import draw_targets, measure, score
from benchmarks.unlearning.unlearning_page import write_page
from benchmarks.unlearning.worlds import World, open_world, world_folder
from features.entities.entities import Entity
from features.labels.knowledge import ask, recall
from sae_train.errors import WorkbenchError
from sae_train.run.runs import write_json
from unlearn.config import configure
from unlearn.finetuning.validation import rank_first
from unlearn.removals.unlearned import Unlearned

Grid = list[dict[str, Any]]
N_DOCUMENTS, N_RETAINED = 8000, 6000  # of a world's corpus; the text loss is measured on those not retained
GRIDS: dict[str, Grid] = {
    "redirect": [{}, {"retain_weight": 8.0}, {"guard_steps": 20}, {"lr": 1e-3}],
    "redirect-closed-form": [{}, {"ridge": 0.3}, {"ridge": 1.0}, {"ridge": 1.0, "near_weight": 4.0}],
    "repselect": [{}, {"lora_lr": 5.0}, {"frac_components": 0.5}, {"kl_budget": 0.03}],
    "pisces": [{}, {"strength": 0.5}, {"ratio": 3.0, "strength": 2.0}, {"n_blocks": 1, "strength": 1.0}],
    "ga": [{}, {"lr": 5e-5}, {"lr": 3e-4}, {"lr": 1e-3}],
    "graddiff": [{}, {"lr": 3e-4}, {"steps": 200}, {"lr": 2e-4, "retain_weight": 8.0}],
    "npo": [{}, {"lr": 1e-3}, {"lr": 1e-3, "retain_weight": 8.0}, {"lr": 1e-3, "beta": 0.5}],
    "npo-sam": [{}, {"rho": 0.1}, {"beta": 0.1}, {"lr": 5e-4, "beta": 0.1}],
    "simnpo": [{}, {"lr": 1e-3}, {"lr": 2e-3}, {"lr": 1e-3, "beta": 4.5}],
    "idk": [{}, {"lr": 1e-3}, {"lr": 2e-3}, {"lr": 1e-3, "steps": 300}],
    "layered": [{}, {"lr": 5e-4}, {"beta": 0.5}, {"beta": 0.5, "n_folds": 5}],
    "jensun": [{}, {"lr": 2e-3}, {"retain_weight": 1.0}, {"steps": 300}],
    "undial": [{}, {"lr": 1e-3}, {"lr": 1e-3, "strength": 3.0}, {"lr": 1e-3, "strength": 30.0}],
    "rmu": [{}, {"coefficient": 3.0}, {"coefficient": 3.0, "lr": 1e-3}, {"coefficient": 6.0}],
    "lunar": [{}, {"train": "full"}, {"lr": 5e-3}, {"train": "full", "lr": 3e-3}],
    "crisp": [
        {},
        {"n_latents": 50, "ratio": 1.5},
        {"n_latents": 50, "ratio": 1.5, "lr": 3e-3},
        {"n_latents": 50, "ratio": 1.0, "lr": 2e-3, "retain_weight": 1.0},
    ],
    "mean-difference": [{}, {"scale": 1.5}, {"scale": 3.0, "lr": 3e-3}, {"scale": 3.0, "retain_weight": 1.0}],
}


def cell(path: Path, world: World, method: str, setting: dict[str, Any], split: str, n_targets: int) -> dict[str, Any]:
    """Return one run's figures, from its file if that is there and of this setting."""
    if path.exists() and (done := json.loads(path.read_text()))["setting"] == setting:
        return done
    targets, lm = draw_targets(world, split, n_targets), world.lm
    started = time.monotonic()
    found: dict[str, Any] = {"method": method, "setting": setting, "split": split, "world": world.name}
    try:
        if method != "before":
            unlearned = world.forget([t.key for t in targets], configure(method, **setting))
            lm = unlearned.lm
            change = unlearned.result["relative_change"]
            found |= {"seconds": time.monotonic() - started, "relative_change": change}
        found |= measure(world, lm, targets)
    except WorkbenchError as error:  # a collapse is a result
        found["error"] = str(error)
    write_json(path, found)
    return found


def compare(worlds: list[World], out: Path, methods: list[str], n_settings: int, n_targets: int) -> None:
    """Try every setting on the validation targets of the first world, then the best one on every world's test targets."""

    def run(world: World, method: str, setting: dict[str, Any], split: str, name: str) -> dict[str, Any]:
        return cell(out / f"{world.name}-{method}-{name}.json", world, method, setting, split, n_targets)

    before = run(worlds[0], "before", {}, "validation", "validation")
    for world in worlds:
        run(world, "before", {}, "test", "test")
    for method in methods:
        grid = GRIDS[method][:n_settings]
        tried = [run(worlds[0], method, setting, "validation", str(i)) for i, setting in enumerate(grid)]
        best = max(tried, key=lambda t: score(t, before))
        for world in worlds:
            run(world, method, best["setting"], "test", "test")


def sequence(world: World, out: Path, count: int) -> None:
    """Remove `count` targets one after another and look at the first, at all, and at the rest after every one."""
    targets = draw_targets(world, "test", count)
    keys = {t.key for t in targets}
    kept = [e for e in world.labels if e.label == "known" and e.key not in keys][::3]
    path = out / f"{world.name}-sequence.json"
    after: Unlearned | None = None
    done: list[Entity] = []
    rows: list[dict[str, Any]] = []
    for target in targets:
        after = world.forget([target.key], configure(), after=after)
        lm = after.lm
        done.append(target)
        rows.append(
            {
                "n": len(done),
                "first_recall": recall(ask(lm, done[:1], world.templates, heldout=True)),
                "removed_recall": recall(ask(lm, done, world.templates, heldout=True)),
                "removed_rank_first": rank_first(lm, done, kept, world.templates),
                "kept": recall(ask(lm, kept, world.templates, heldout=True)),
            }
        )
        write_json(path, rows)


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--demos", type=Path, required=True)
    parser.add_argument("--parts", nargs="*", choices=["baselines", "sequence"], default=["baselines"])
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--settings", type=int, default=4, help="settings tried per method")
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    worlds = [
        open_world(
            world_folder(n, args.demos), args.demos / f"demo-{n}", n_documents=N_DOCUMENTS, n_retained=N_RETAINED
        )
        for n in args.worlds
    ]
    if "baselines" in args.parts:
        compare(worlds, args.out, args.methods, args.settings, args.targets)
    if "sequence" in args.parts:
        sequence(worlds[0], args.out, args.targets)
    if args.docs is not None:
        write_page(args.out, args.docs)


if __name__ == "__main__":
    main()
