"""What the unlearning benchmark measures on a model: seven figures and their harmonic mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import harmonic_mean
from typing import Any

import numpy as np
import torch

from benchmarks.unlearning.worlds import World
from features.entities.collect import name_activations
from features.entities.entities import Entity
from features.entities.prompts import by_type, contexts
from features.labels.knowledge import ask, recall
from features.stats.probe import cross_validated_auroc
from sae_train.lm.generate import text_loss
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from unlearn.auditing.attacks.path import PathConfig
from unlearn.auditing.attacks.relearn import relearn
from unlearn.auditing.context import nearest_known
from unlearn.finetuning.validation import rank_first
from unlearn.problem.data import mining_half, text_windows, without_targets

RELEARN = PathConfig(steps=(10, 60), lrs=(1e-3,), max_wordings=1)
N_RETAIN = 60
N_NEIGHBOURS = 3
CONTROLS = 10
FLOOR = 1e-3  # a harmonic mean has no zeros


def draw_targets(world: World, split: str, count: int) -> list[Entity]:
    """Draw `count` known entities, as many of every type; `validation` and `test` never overlap."""
    drawn = []
    groups = by_type([e for e in world.labels if e.label == "known" and e.seen == "facts"])
    each = -(-count // len(groups))
    for kind, members in groups.items():
        order = rng("benchmark.unlearning.targets", *kind.encode()).permutation(len(members))
        at = {"validation": 0, "test": each}[split]
        drawn += [members[i] for i in order[at : at + each]]
    return drawn[:count]


def measure(world: World, lm: LanguageModel, targets: Sequence[Entity]) -> dict[str, Any]:
    """Return the figures of one model about some targets, held-out wordings throughout."""
    keys = {t.key for t in targets}
    known = [e for e in world.labels if e.label == "known" and e.key not in keys]
    neighbours = nearest_known(targets, known, N_NEIGHBOURS)
    near = {e.key for e in neighbours}
    others = [e for e in known if e.key not in near]
    retain = [others[i] for i in rng("benchmark.unlearning.retain").permutation(len(others))[:N_RETAIN]]
    few = replace(
        world.templates,
        heldout={k: {a: t[:2] for a, t in v.items()} for k, v in world.templates.heldout.items()},
    )
    _, never = mining_half(world.labels, world.analysis, "unknown")
    never = [e for e in never if e.seen == "never"]
    control = [n for k, m in by_type(never).items() for n in m[: sum(t.type == k for t in targets)]]
    curve = {p.step: p for p in relearn(lm, targets, control, world.templates, RELEARN).points}
    said = {
        k: ask(lm, e, few, heldout=True) for k, e in (("targets", targets), ("near", neighbours), ("other", retain))
    }
    general = without_targets(world.unretained, targets)
    windows = text_windows(lm.tokenizer, general, ctx_len=64, max_tokens=8000)
    return {
        "recall": recall(said["targets"]),
        "rank_first": rank_first(lm, targets, known, few),
        "neighbours": recall(said["near"]),
        "kept": recall(said["other"]),
        "text_loss": text_loss(lm, windows),
        **auroc_figures(world, lm, targets, never),
        **{f"relearned_{s}": p.target.value for s, p in curve.items() if s},
        **{f"relearned_control_{s}": p.control.value for s, p in curve.items() if s},
        "n_targets": len(targets),
    }


def auroc_figures(
    world: World, lm: LanguageModel, targets: Sequence[Entity], never: Sequence[Entity]
) -> dict[str, float]:
    """Return the AUROC of a fresh classifier at the last block, targets against never-seen names, and its control."""
    name = f"layers.{lm.n_blocks - 1}"
    kinds = {t.type for t in targets}
    never = [e for e in never if e.type in kinds]
    prompts = [p for e in (*targets, *never) for p in contexts(e, world.templates, heldout=True)]
    acts = name_activations(lm, prompts, [name])[name]
    entity = np.array([p.entity for p in prompts])
    is_target = np.isin(entity, [t.key for t in targets])
    found = cross_validated_auroc(acts, is_target, entity, seed=0)
    rows, names = acts[torch.tensor(~is_target)], entity[~is_target]
    keys = [e.key for e in never]
    controls = []
    for draw in range(CONTROLS):
        generator = rng("benchmark.unlearning.controls", draw)
        chosen = generator.choice(keys, min(len(targets), len(keys) // 2), replace=False)
        controls.append(cross_validated_auroc(rows, np.isin(names, chosen), names, seed=0))
    return {"auroc": float(found), "control_low": min(controls), "control_high": max(controls)}


def parts(found: dict[str, Any], before: dict[str, Any]) -> dict[str, float]:
    """Return the six shares, each 1 at best, of which the score is the harmonic mean."""
    return {
        "forgotten": 1 - found["recall"],
        "out of rank": 1 - found["rank_first"],
        "neighbours kept": min(1.0, found["neighbours"] / before["neighbours"]),
        "others kept": min(1.0, found["kept"] / before["kept"]),
        "indistinguishable": 1 - 2 * abs(found["auroc"] - 0.5),
        "not relearned": 1 - found["relearned_60"],
    }


def score(found: dict[str, Any], before: dict[str, Any]) -> float:
    """Return the harmonic mean of `parts`; an empty result (a collapsed run) is 0."""
    return harmonic_mean([max(FLOOR, v) for v in parts(found, before).values()]) if "recall" in found else 0.0
