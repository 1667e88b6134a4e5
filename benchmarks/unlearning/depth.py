"""How deep a removal goes in a planted real model, in answer probabilities beside the twin: minutes, not hours.

    python -m benchmarks.unlearning.depth --base MODEL --text TEXT --cache PAIRS --out RUN [--seeds 0] [--on test] \
        [--methods redirect-natural redirect-closed-form …] [--kl 0.01] [--docs docs/results/depth.md]

Read is the probability of the true answer, exp of the mean log-probability of its tokens, one held-out question a fact:

    asked      about the targets; about known entities that methods retain or never see (kept); targets' facts about partners
    put back   the targets again, with the planted model's activations at all name tokens behind a block put in
    relearned  half of each target's facts taught, the other half asked: the highest mean on the path of every step size

beside recall in greedy answers. The model before and its twin, which never met the test targets, are read in the same way.
Settings belong on the validation targets (`--on validation`, where the twin does know them), results on the test targets.
One JSON file a model: what is there is not read again.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.unlearning.depth_page import Depth, render
from benchmarks.unlearning.planted_worlds import open_planted
from benchmarks.unlearning.settings import MEASURED_ANYWAY, read_setting
from benchmarks.unlearning.worlds import World
from features import Planted, plant
from features.entities.entities import Entity
from features.entities.name_tokens import Encoded, encode
from features.entities.prompts import Prompt, questions
from features.labels.knowledge import ask
from features.labels.knowledge import recall as recall_of
from sae_train import load_lm
from sae_train.lm.generate import answer_losses, pad_right
from sae_train.lm.hooks import capture, replaced
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.text.tokens import encode_plain
from unlearn.config import configure
from unlearn.problem.data import split_sets

N_KEPT = 16  # known entities that no method sees
BATCH = 64
EVERY = 5  # blocks from one at which activations are put back to the next
LESSON_RATES, LESSON_STEPS, LESSONS, LOOK_EVERY = (1e-4, 3e-4), 15, 16, 3


@dataclass(frozen=True)
class Asked:
    """Questions with their true answers, in tokens."""

    prompts: list[Encoded]
    answers: list[list[int]]

    @classmethod
    def of(cls, lm: LanguageModel, asked: Sequence[tuple[Prompt, str]]) -> Asked:
        """Tokenize."""
        answers = encode_plain(lm.tokenizer, [f" {answer}" for _, answer in asked])[0] if asked else []
        return cls(encode(lm, [prompt for prompt, _ in asked]), answers)

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        """The tokens of question and answer."""
        return [(list(p.ids), a) for p, a in zip(self.prompts, self.answers, strict=True)]


def one_a_fact(world: World, entities: Sequence[Entity], facts_of: Sequence[Entity]) -> Iterator[tuple[Prompt, str]]:
    """Yield the first held-out question of every fact, with the answer that another entity's facts give."""
    for entity, source in zip(entities, facts_of, strict=True):
        seen: set[str] = set()
        for prompt in questions(entity, world.templates, heldout=True):
            attribute = prompt.attribute or ""
            if attribute not in seen and attribute in source.facts:
                seen.add(attribute)
                yield prompt, source.facts[attribute][0]


def probabilities(lm: LanguageModel, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Return the answer's probability of every question, read in one pass."""
    losses, is_answer = answer_losses(lm.model, pairs, lm.device)
    return (-(losses * is_answer).sum(1) / is_answer.sum(1)).exp().tolist()


@torch.no_grad()
def probability(lm: LanguageModel, asked: Asked) -> float:
    """Return the mean over questions of the answer's probability."""
    found: list[float] = []
    for start in range(0, len(asked.pairs), BATCH):
        found += probabilities(lm, asked.pairs[start : start + BATCH])
    return sum(found) / len(found)


@torch.no_grad()
def put_back(lm: LanguageModel, original: LanguageModel, asked: Asked, block: int) -> float:
    """Return the same with the original's activations behind a block at all name tokens."""
    name, found = f"layers.{block}", []
    for start in range(0, len(asked.pairs), BATCH):
        pairs, prompts = asked.pairs[start : start + BATCH], asked.prompts[start : start + BATCH]
        ids, mask = pad_right([[*q, *a] for q, a in pairs], device=lm.device)
        is_name = torch.zeros_like(ids, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            is_name[row, list(prompt.name)] = True
        acts = capture(original, ids, mask, [name])[name]

        def original_at_names(own: Tensor, acts: Tensor = acts, is_name: Tensor = is_name) -> Tensor:
            read = own.shape[1]  # the last token of an answer is not read
            return torch.where(is_name[:, :read, None], acts[:, :read].to(own.dtype), own)

        with replaced(lm.model, name, original_at_names):
            found += probabilities(lm, pairs)
    return sum(found) / len(found)


def relearned(lm: LanguageModel, world: World, targets: Sequence[Entity], seed: int) -> float:
    """Teach every second fact of each target in training wordings; return the highest probability of the others."""
    taught_of = {e.key: set(sorted(e.facts)[::2]) for e in targets}
    lessons = [
        (p, e.facts[p.attribute or ""][0])
        for e in targets
        for p in questions(e, world.templates, heldout=False)
        if p.attribute in taught_of[e.key]
    ]
    others = [replace(e, facts={a: v for a, v in e.facts.items() if a not in taught_of[e.key]}) for e in targets]
    taught, asked = Asked.of(lm, lessons), Asked.of(lm, list(one_a_fact(world, targets, others)))
    highest = probability(lm, asked)
    for rate in LESSON_RATES:
        learner = replace(lm, model=copy.deepcopy(lm.model).requires_grad_(True))
        optimizer = torch.optim.AdamW(learner.model.parameters(), lr=rate, weight_decay=0.0)
        for step in range(LESSON_STEPS):
            picked = rng("attack.relearn.batch", seed, step).choice(
                len(lessons), min(LESSONS, len(lessons)), replace=False
            )
            losses, is_answer = answer_losses(learner.model, [taught.pairs[i] for i in picked], lm.device)
            optimizer.zero_grad()
            ((losses * is_answer).sum() / is_answer.sum()).backward()
            optimizer.step()
            if step % LOOK_EVERY == LOOK_EVERY - 1:
                highest = max(highest, probability(learner, asked))
    return highest


def read(lm: LanguageModel, world: World, names: Sequence[str], seed: int, **facts: Any) -> Depth:
    """Read one model; `facts` go into the result."""
    started = time.monotonic()
    sets = split_sets(
        world.lm,
        world.labels,
        world.templates,
        world.analysis,
        names,
        frac_retain=configure("redirect").frac_retain,
        seed=0,
    )
    kept = sets.holdout[:N_KEPT]
    target, partner = (Asked.of(lm, list(one_a_fact(world, who, sets.forget))) for who in (sets.forget, sets.partner))
    asked_retained, asked_kept = (Asked.of(lm, list(one_a_fact(world, who, who))) for who in (sets.retain, kept))
    recalls = {
        name: recall_of(ask(lm, who, world.templates, heldout=True))
        for name, who in (("target", sets.forget), ("retained", sets.retain), ("kept", kept))
    }
    return Depth(
        target=probability(lm, target),
        retained=probability(lm, asked_retained),
        kept=probability(lm, asked_kept),
        partner=probability(lm, partner),
        put_back={b: put_back(lm, world.lm, target, b) for b in range(EVERY, lm.n_blocks - 1, EVERY)},
        relearned=relearned(lm, world, sets.forget, seed),
        target_recall=recalls["target"],
        retained_recall=recalls["retained"],
        kept_recall=recalls["kept"],
        read_seconds=time.monotonic() - started,
        **facts,
    )


def measured(path: Path, pair: Planted, world: World, seed: int, names: Sequence[str], spec: str, kl: float) -> None:
    """Read the model before (`before`), the twin (`twin`) or what a method (`NAME` or `NAME:setting=value,…`) makes."""
    if path.exists():
        return
    assert pair.twin is not None
    if spec in ("before", "twin"):
        read(pair.lm if spec == "before" else pair.twin, world, names, seed).write(path)
        return
    method, _, words = spec.partition(":")
    given = dict(read_setting(word) for word in words.split(",") if word)
    started = time.monotonic()
    unlearned = world.forget(names, configure(method, **{**MEASURED_ANYWAY, "kl_budget": kl, **given}))
    seconds = time.monotonic() - started
    facts = {"kl": unlearned.result["kl"], "seconds": seconds, "scale": unlearned.result["terms"].get("edit_scale")}
    read(unlearned.lm, world, names, seed, **facts).write(path)


def main() -> None:
    """Read what is not there yet and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--on", choices=["test", "validation"], default="test")
    parser.add_argument("--methods", nargs="+", default=["redirect-natural", "redirect-closed-form", "repselect"])
    parser.add_argument("--kl", type=float, default=0.01)
    parser.add_argument("--plant", action="append", default=[], metavar="NAME=VALUE", help="A setting of planting.")
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    base = load_lm(args.base, device="cpu")
    for seed in args.seeds:
        pair = plant(base, text=args.text, cache=args.cache, seed=seed, **dict(map(read_setting, args.plant)))
        world = open_planted(pair, args.text, args.out / f"seed-{seed}", f"planted-{seed}")
        names = list(pair.roles.targets if args.on == "test" else pair.roles.validation_targets)
        folder = args.out / f"seed-{seed}" / f"depth-{args.on}-kl-{args.kl:g}"
        folder.mkdir(parents=True, exist_ok=True)
        for spec in ("before", "twin", *args.methods):
            measured(folder / f"{spec.replace(':', ' ')}.json", pair, world, seed, names, spec, args.kl)
    if args.docs is not None:
        args.docs.write_text(render(args.out, args.on, args.kl), encoding="utf-8")


if __name__ == "__main__":
    main()
