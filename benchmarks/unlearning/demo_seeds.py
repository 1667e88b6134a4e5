"""The demo over seeds of world, SAE, split, targets and fine-tune, with intervals.

    python -m benchmarks.unlearning.demo_seeds --out RUN [--seeds 0 1 2] [--docs docs/results/demo_seeds.md]

Builds the worlds that are not there yet (RUN/world-N; seed 0 is the one that ships), runs `wb demo` on each with the same
seed, and writes every figure with its mean and 95 % t-interval over seeds. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.unlearning.worlds import open_world, world_folder
from sae_train.lm.models import load_lm
from unlearn.auditing.attacks.path import PathConfig
from unlearn.auditing.attacks.relearn import relearn
from unlearn.auditing.audit_json import load_report
from unlearn.config import AuditConfig
from unlearn.removals.record import RemovalRecord

PARTINGS = 5
RELEARN_LR = 1e-3  # the largest of the audit's

WORLD_BARS = (
    ("recall", "recall of 800 facts, held-out wordings", ">= 0.97"),
    ("refusal", "refusal of never-seen names", ">= 0.93"),
    ("best_probe", "probe AUROC at the best block", ">= 0.97"),
    ("embedding_auroc", "probe AUROC at the embedding", "<= 0.6"),
)
DEMO_BARS = (
    ("recall_before", "target recall before", ">= 0.95"),
    ("recall_after", "target recall after", "<= 0.05"),
    ("ranking_after", "truth ranked first, after (chance 0.05)", ""),
    ("neighbours_drop", "neighbours, points of recall lost", "<= 1.2"),
    ("retain_drop", "other known entities, points of recall lost", "<= 1.2"),
    ("untouched_drop", "known entities never retained, points of recall lost", "<= 1.2"),
    ("loss_rise", "general-text loss, rise in %", "<= 1"),
    ("called_unknown", "targets called unknown by the original probe", ">= 0.90"),
    ("auroc_before", "fresh classifier AUROC before (lowest block)", ">= 0.97"),
    ("auroc_after", "fresh classifier AUROC after (highest block)", "<= 0.75"),
    ("control_high", "the same between never-known groups, upper end", ""),
    ("auroc_whole_name", "the same classifier over all name tokens, highest block", ""),
    ("control_whole_name", "… between never-known groups, upper end", ""),
    ("relearned", "untaught facts after relearning the others, the worst setting", ""),
    ("relearned_control", "… names never known, the same lessons", ""),
    ("partings_10", "untaught facts after 10 steps at 1e-3, mean over 5 partings of the facts", ""),
    ("partings_control_10", "… names never known, the same lessons", ""),
    ("partings_30", "untaught facts after 30 steps", ""),
    ("partings_control_30", "… names never known", ""),
    ("partings_60", "untaught facts after 60 steps", ""),
    ("partings_control_60", "… names never known", ""),
    ("other_forms", "questions in other forms, the worst", ""),
    ("other_forms_control", "… names never known", ""),
    ("quantized", "recall after int8 and int4 rounding", ""),
    ("pruned", "recall after pruning", ""),
    ("finetuned", "recall after benign fine-tuning", ""),
    ("steer_back_recall", "recall with the original activation put back", ""),
    ("best_unknown_heldout_separation", "best unknown latent, held-out separation", "0.5-0.9"),
    ("score_auroc", "selected latents together, held-out AUROC", ""),
    ("probe_auroc", "linear probe, held-out AUROC", ""),
    ("fvu", "FVU of the SAE", ""),
    ("latents_known", "latents found for known", ""),
    ("latents_unknown", "latents found for unknown", ""),
    ("unlearn_seconds", "seconds to unlearn", ""),
    ("audit_seconds", "seconds to audit", "<= 90"),
    ("seconds", "seconds, all", "<= 240"),
)


def run_json(*words: object) -> dict[str, Any]:
    """Run a command that prints JSON."""
    done = subprocess.run([*map(str, words)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def world_of(seed: int, out: Path) -> Path:
    """Return the world of a seed, built if need be."""
    folder = world_folder(seed, out)
    if not (folder / "world.json").exists():
        run_json("wb", "world", "--out", folder, "--seed", seed, "--json")
    return folder


def world_facts(world: Path) -> dict[str, float]:
    """Measure what the world's model knows."""
    from features.factworld.check import check_world

    facts = check_world(world)
    return {
        "recall": facts.recall,
        "refusal": facts.refusal,
        "best_probe": facts.best_probe_auroc,
        "embedding_auroc": facts.embedding_auroc,
    }


def figures(seed: int, out: Path) -> dict[str, Any]:
    """Return everything measured for one seed; kept in RUN/seed-N.json."""
    path = out / f"seed-{seed}.json"
    if not path.exists():
        world = world_of(seed, out)
        found: dict[str, Any] = world_facts(world)
        found |= run_json(
            "wb", "demo", "--world", world, "--seed", seed, "--out", out / f"demo-{seed}", "--overwrite", "--json"
        )
        found["neighbours_drop"] = 100 * (found["neighbours_before"] - found["neighbours_after"])
        found["retain_drop"] = 100 * (found["retain_before"] - found["retain_after"])
        found["untouched_drop"] = 100 * (found["untouched_before"] - found["untouched_after"])
        found["loss_rise"] = 100 * (found["loss_after"] / found["loss_before"] - 1)
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    demo = out / f"demo-{seed}"
    relearned = out / f"partings-{seed}.json"
    if not relearned.exists():
        relearned.write_text(json.dumps(over_partings(world_of(seed, out), demo)), encoding="utf-8")
    return {
        **json.loads(path.read_text()),
        **audited(demo / "audit" / "audit.json"),
        **json.loads(relearned.read_text()),
    }


def over_partings(world: Path, demo: Path) -> dict[str, float]:
    """Return what lessons bring back of the untaught facts, and of names never known, over several partings.

    The audit parts the facts once, and asks forty: which ones are taught decides as much as what is left.
    """
    original, names = open_world(world, demo, n_documents=0), list(RemovalRecord.read(demo / "unlearned").removed)
    after = load_lm(str(demo / "unlearned"), device="cpu")
    context = original.context(after, names, AuditConfig())
    configs = [PathConfig(lrs=(RELEARN_LR,), seed=seed) for seed in range(PARTINGS)]
    curves = [relearn(after, context.forget, context.control, context.templates, config).points for config in configs]
    found: dict[str, float] = {}
    for points in zip(*(c[1:] for c in curves), strict=True):
        found[f"partings_{points[0].step}"] = float(np.mean([p.target.value for p in points]))
        found[f"partings_control_{points[0].step}"] = float(np.mean([p.control.value for p in points]))
    return found


def audited(path: Path) -> dict[str, float]:
    """Return what the demo's summary leaves out of its audit: attacks, and the classifier on all name tokens."""
    report = load_report(path)
    places, attacks = report.indistinguishability, report.attacks
    whole = [place for name, place in places.items() if name.endswith("whole name")]
    return {
        "auroc_whole_name": max(place.auroc.value for place in whole),
        "control_whole_name": max(place.control_high for place in whole),
        "relearned": attacks["relearn"].recall_after.value,
        "relearned_control": attacks["relearn"].compared.value,
        "other_forms": attacks["prompts"].recall_after.value,
        "other_forms_control": attacks["prompts"].compared.value,
        "quantized": attacks["quantize"].recall_after.value,
        "pruned": attacks["prune"].recall_after.value,
        "finetuned": attacks["finetune"].recall_after.value,
        "audit_seconds": report.seconds,
    }


def row(key: str, name: str, bar: str, runs: list[dict[str, Any]]) -> str:
    """Render one figure over seeds."""
    values = [float("nan") if r[key] is None else float(r[key]) for r in runs]
    mean = float(np.mean(values))
    interval = ""
    if len(values) > 1 and np.isfinite(values).all():
        margin = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
        interval = f"{mean - margin:.3f} to {mean + margin:.3f}"
    cells = " | ".join(f"{v:.3f}" for v in values)
    return f"| {name} | {cells} | {mean:.3f} | {interval} | {bar} |"


def render(seeds: list[int], runs: list[dict[str, Any]]) -> str:
    """Write the page of docs."""
    head = "| figure | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | 95 % interval | bar |"
    line = "|---|" + "---|" * (len(seeds) + 3)
    text = [
        "# The demo over seeds",
        "",
        "World, SAE, split, targets and fine-tune all drawn from the seed. Intervals are Student's t over seeds: with three seeds",
        "they are wide, and they may reach beyond what a share can be. 20 targets a seed. Made again by",
        "",
        "    python -m benchmarks.unlearning.demo_seeds --out RUN --docs docs/results/demo_seeds.md",
        "",
        "## The worlds",
        "",
        head,
        line,
        *(row(*bar, runs) for bar in WORLD_BARS),
        "",
        "## The demo",
        "",
        head,
        line,
        *(row(*bar, runs) for bar in DEMO_BARS),
        "",
        "Verdicts: " + ", ".join(f"seed {s} {r['verdict']}" for s, r in zip(seeds, runs, strict=True)) + ".",
        "",
    ]
    return "\n".join(text)


def main() -> None:
    """Run all seeds and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = [figures(seed, args.out) for seed in args.seeds]
    if args.docs is not None:
        args.docs.write_text(render(args.seeds, runs), encoding="utf-8")


if __name__ == "__main__":
    main()
