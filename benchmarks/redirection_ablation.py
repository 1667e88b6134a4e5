"""One redirection in a fact world under given settings, and everything that tells how deep it went.

    python benchmarks/redirection_ablation.py --demo RUN/demo-0 --world fact-world --draw 100 --targets 20 \
        --set erase_behind=false --out ablation.jsonl

RUN/demo-N is what `wb demo` leaves on a world. Draws 100 and up are validation draws, on which settings are chosen;
draws below 100 are reported. Every run appends one JSON line: recall, rank, AUROC with its control range at every
block, steer-back, and relearning beside names that were never learned. Settings of the fine-tune: `--set NAME=VALUE`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.analysis.store import LatentAnalysis, load_analysis
from features.entities.entities import Entity, load_entities
from features.entities.prompts import Templates, by_type, load_templates
from features.factworld import shipped_world
from features.factworld.corpus import world_corpus
from sae_train.lm.adapters import merge_adapter
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.rng import rng
from sae_train.saes.base import Sae
from sae_train.saes.interop import load_sae
from sae_train.text.tokens import Document
from unlearn.auditing.attacks.relearn import RelearnConfig, relearn
from unlearn.auditing.attacks.steer_back import attack_steer_back
from unlearn.auditing.context import AuditContext
from unlearn.auditing.evaluations.indistinguishability import evaluate_indistinguishability
from unlearn.auditing.evaluations.ranking import first_rank_shares
from unlearn.auditing.evaluations.recall import evaluate_recall
from unlearn.auditing.evaluations.utility import evaluate_utility
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig, UnlearnConfig, configure
from unlearn.finetuning.finetune import Preparing, WeightEdit, finetune
from unlearn.methods import build_method
from unlearn.problem.data import split_sets, text_windows, without_targets
from unlearn.problem.problem import Problem
from unlearn.removals.run import TEXT_CTX, TEXT_TOKENS, adapter_for, choose_hook_point

RELEARN_LR = 1e-3


@dataclass
class World:
    """A fact world and what the demo found out about it."""

    folder: Path
    lm: LanguageModel
    entities: list[Entity]
    labels: list[Entity]
    templates: Templates
    analysis: LatentAnalysis
    saes: list[Sae]
    documents: list[Document]


def open_world(folder: Path, demo: Path) -> World:
    """Read a world and its demo run."""
    seed = int(json.loads((folder / "world.json").read_text())["seed"])
    return World(
        folder=folder,
        lm=load_lm(str(folder), device="cpu"),
        entities=load_entities(folder / "entities.jsonl"),
        labels=load_entities(demo / "labels.jsonl", need_labels=True),
        templates=load_templates(folder / "templates.json"),
        analysis=load_analysis(demo / "latents.h5"),
        saes=[load_sae(path) for path in sorted(demo.glob("sae-*"))],
        documents=[Document(d.text) for d in world_corpus(seed)],
    )


def draw_targets(world: World, count: int, draw: int) -> list[str]:
    """Draw known entities, types in turn."""
    generator = rng("benchmark.redirection.targets", draw)
    known = [[e.key for e in m if e.label == "known" and e.seen == "facts"] for m in by_type(world.labels).values()]
    shuffled = [[keys[i] for i in generator.permutation(len(keys))] for keys in known]
    start = int(generator.integers(len(shuffled)))
    return [shuffled[(start + k) % len(shuffled)][k // len(shuffled)] for k in range(count)]


def make_problem(world: World, names: Sequence[str], config: UnlearnConfig) -> Problem:
    """Build the unlearning task on a fresh copy of the model; half of the corpus is retained."""
    lm = load_lm(str(world.folder), device="cpu")
    documents = world.documents[: len(world.documents) // 2]
    return problem_of(lm, world.saes, world.analysis, world.labels, world.templates, documents, names, config)


def problem_of(
    lm: LanguageModel,
    saes: Sequence[Sae],
    analysis: LatentAnalysis,
    labels: Sequence[Entity],
    templates: Templates,
    documents: Sequence[Document],
    names: Sequence[str],
    config: UnlearnConfig,
) -> Problem:
    """Build the unlearning task on a model, which will change, as `wb unlearn` does."""
    loaded, latents = choose_hook_point(saes, analysis, config.hook_point)
    sets = split_sets(lm, labels, templates, analysis, names, retain_share=config.retain_share, seed=config.seed)
    kept = without_targets(documents, sets.forget)
    text = text_windows(lm.tokenizer, kept, ctx_len=TEXT_CTX, max_tokens=TEXT_TOKENS)
    original = copy.deepcopy(lm.model)
    return Problem(lm, original, original, sets, templates, loaded, latents, text, config)


def tune(problem: Problem) -> None:
    """Run the steps of the fine-tune without its files."""
    config = problem.config
    adapter = adapter_for(problem.lm, config)
    method = build_method(problem)
    if isinstance(method, Preparing):
        method.prepare()
    if isinstance(method, WeightEdit):
        method.edit()
        return
    finetune(problem.lm, method, config, None, folder=Path(), identity={}, resume=False)
    if adapter is not None:
        merge_adapter(adapter)


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
    config = RelearnConfig(lrs=(RELEARN_LR,), max_targets=len(targets), seed=draw)
    points = [p for p in relearn(lm, targets, control, world.templates, config).points if p.step]
    return {
        "relearned": {str(p.step): p.target.value for p in points},
        "relearned_control": {str(p.step): p.control.value for p in points},
    }


def evaluate(world: World, problem: Problem, draw: int) -> dict[str, Any]:
    """Return every figure of one fine-tuned model."""
    names = [e.key for e in problem.sets.forget]
    config = AuditConfig(n_neighbours=2, max_retain=30, seed=draw)
    request = Request(
        world.labels,
        world.templates,
        names,
        hook_point=problem.latents.hook_point,
        analysis=world.analysis,
        documents=world.documents[-1500:],
        text_name="text",
    )
    context = make_context(world.lm, problem.lm, request, config)
    context.blocks = [f"layers.{i}" for i in range(world.lm.n_blocks)]
    control = never_learned(world, context.forget, draw)
    return {
        **_kept(context),
        "rank_first": float(np.mean(first_rank_shares(context, context.forget, problem.lm))),
        "rank_first_control": float(np.mean(first_rank_shares(context, control, world.lm))),
        **_inside(context),
        **relearned(world, problem.lm, context.forget, control, draw),
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


def read_setting(word: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is JSON, or a text where it is none."""
    name, _, text = word.partition("=")
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text


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
    settings = dict(map(read_setting, given.set))
    problem = make_problem(
        world, draw_targets(world, given.targets, given.draw), configure(seed=given.draw, **settings)
    )
    started = time.monotonic()
    tune(problem)
    seconds = time.monotonic() - started
    line = {
        "world": Path(given.world).name,
        "targets": given.targets,
        "draw": given.draw,
        "settings": settings,
        "seconds": seconds,
        **evaluate(world, problem, given.draw),
    }
    with given.out.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
