"""One redirection in a fact world under given settings, and everything that tells how deep it went.

    python -m benchmarks.unlearning.redirection_ablation --demo RUN/demo-0 --world fact-world --draw 100 --targets 20 \
        --set erase_behind=false --out ablation.jsonl

RUN/demo-N is what `wb demo` leaves on a world. Draws 100 and up are validation draws, on which settings are chosen;
draws below 100 are reported. Every run appends one JSON line: recall, rank, AUROC with its control range at every
block, steer-back, relearning beside names that were never learned, and the seconds of the removal, its pairing and checks included. Settings of the fine-tune: `--set NAME=VALUE`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.unlearning.settings import read_config, read_setting
from benchmarks.unlearning.worlds import World, open_world
from features.entities.entities import Entity
from features.entities.prompts import by_type
from features.factworld import shipped_world
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from unlearn.auditing.attacks.path import PathConfig
from unlearn.auditing.attacks.relearn import relearn
from unlearn.auditing.attacks.steer_back import attack_steer_back
from unlearn.auditing.context import AuditContext
from unlearn.auditing.evaluations.indistinguishability import evaluate_indistinguishability
from unlearn.auditing.evaluations.ranking import frac_ranked_first
from unlearn.auditing.evaluations.recall import evaluate_recall
from unlearn.auditing.evaluations.utility import evaluate_utility
from unlearn.config import AuditConfig
from unlearn.removals.unlearned import Unlearned

RELEARN_LR = 1e-3
N_AUDITED = 1500  # documents, the last of the corpus, on which the text loss is measured; the first half is retained


def draw_targets(world: World, count: int, draw: int) -> list[str]:
    """Draw known entities, types in turn."""
    generator = rng("benchmark.redirection.targets", draw)
    known = [[e.key for e in m if e.label == "known" and e.seen == "facts"] for m in by_type(world.labels).values()]
    shuffled = [[keys[i] for i in generator.permutation(len(keys))] for keys in known]
    start = int(generator.integers(len(shuffled)))
    return [shuffled[(start + k) % len(shuffled)][k // len(shuffled)] for k in range(count)]


def never_learned(world: World, targets: Sequence[Entity], draw: int) -> list[Entity]:
    """Return names that no text and no training has seen, of the targets' types, with facts made up for them."""
    used = {e.key for e in world.labels}
    pools = {
        kind: [e for e in members if e.seen == "never" and e.key not in used]
        for kind, members in by_type(world.entities).items()
    }
    generator = rng("benchmark.redirection.partners", draw)
    return [pools[t.type].pop(int(generator.integers(len(pools[t.type])))) for t in targets]


def relearned(
    world: World, lm: LanguageModel, targets: Sequence[Entity], control: Sequence[Entity], draw: int
) -> dict[str, Any]:
    """Return recall of the untaught facts after each number of lessons, targets beside names never learned."""
    config = PathConfig(lrs=(RELEARN_LR,), max_targets=len(targets), seed=draw)
    points = [p for p in relearn(lm, targets, control, world.templates, config).points if p.step]
    return {
        "relearned": {str(p.step): p.target.value for p in points},
        "relearned_control": {str(p.step): p.control.value for p in points},
    }


def evaluate(world: World, unlearned: Unlearned, draw: int) -> dict[str, Any]:
    """Return every figure of one fine-tuned model."""
    names, lm = unlearned.record.values["inputs"]["forget"], unlearned.lm
    context = world.context(
        lm,
        names,
        AuditConfig(n_neighbours=2, max_retain=30, seed=draw),
        hook_point=unlearned.hook_point,
        documents=world.documents[-N_AUDITED:],
        text_name="text",
    )
    context.blocks = [f"layers.{i}" for i in range(world.lm.n_blocks)]
    control = never_learned(world, context.forget, draw)
    return {
        **_kept(context),
        "rank_first": float(np.mean(frac_ranked_first(context, context.forget, lm))),
        "rank_first_control": float(np.mean(frac_ranked_first(context, control, world.lm))),
        **_inside(context),
        **relearned(world, lm, context.forget, control, draw),
    }


def _kept(context: AuditContext) -> dict[str, float | None]:
    """Return recall by group and the rise of the text loss."""
    found = evaluate_recall(context)
    forget, neighbours, retain = (group.recall for group in (found.forget, found.neighbours, found.retain))
    utility = evaluate_utility(context).utility
    assert forget and neighbours and retain and utility
    return {
        "recall": forget.after.value,
        "neighbours_lost": neighbours.lost,
        "retain_lost": retain.lost,
        "loss_rise": utility.rise,
    }


def _inside(context: AuditContext) -> dict[str, Any]:
    """Return what probes and patches still find."""
    found = evaluate_indistinguishability(context)
    assert found.probe
    settings = {s.name: s.target.value for s in attack_steer_back(context).settings}
    by_block = {k.split(" at ")[1]: v for k, v in settings.items() if k.startswith("original activation")}
    return {
        "auroc": {n: [p.auroc.value, p.control_low, p.control_high] for n, p in found.indistinguishability.items()},
        "called_unknown": found.probe.unknown_after.value,
        "steer_back": max(by_block.values()),
        "steer_back_by_block": by_block,
    }


def main() -> None:
    """Run one ablation and append its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--world", default="fact-world")
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--draw", type=int, default=100)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    world = open_world(shipped_world() if given.world == "fact-world" else Path(given.world), given.demo)
    names = draw_targets(world, given.targets, given.draw)
    unlearned = world.forget(names, read_config(given.set, seed=given.draw))
    line = {
        "world": Path(given.world).name,
        "targets": given.targets,
        "draw": given.draw,
        "settings": dict(map(read_setting, given.set)),
        "seconds": unlearned.result["seconds"],
        **evaluate(world, unlearned, given.draw),
    }
    with given.out.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
