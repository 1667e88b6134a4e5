"""Is the audit right? Models of which the truth is known, audited with the shipped policy, over seeds of the fact world.

    python -m benchmarks.audit.audit_calibration --out RUN [--seeds 0 1 2] [--worlds DIR] [--docs docs/results/audit_calibration.md]

never      the world's language model trained again without every document that names one of 40 known entities
untouched  the world's own model
random     the same shape with random weights; noise: the world's weights plus normal noise
idk N      reject-tuning (also rmu, ga: gradient ascent) for N steps, with the SAE and latents of DIR/demo-SEED (`wb demo`)

From the 40 left-out entities, request after request of 20 (5 a type) is drawn; the others of the 40 are taken out of the
labels of every audit, so that `never` is not blamed for what it was never told. Every finished audit is kept in
RUN/audits.jsonl and not repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.unlearning.settings import MEASURED_ANYWAY
from benchmarks.unlearning.worlds import World, open_world, world_folder
from features import label_entities
from features.entities.entities import Entity, load_entities
from features.factworld.corpus import world_corpus
from features.factworld.train import train_model
from sae_train.lm.models import LanguageModel, load_lm, save_lm
from sae_train.rng import torch_rng
from sae_train.text_files import lines_of, read_text
from unlearn.auditing.audit_json import report_from_json, report_to_json
from unlearn.auditing.audit_report import AuditReport
from unlearn.auditing.policy import AuditPolicy, default_policy, load_policy
from unlearn.auditing.verdict import decide
from unlearn.config import AuditConfig, configure

N_LEFT_OUT, N_TARGETS = 10, 5  # per type
GROUPS = (("facts", 50), ("name", 50), ("never", 25))  # entities per type that are labelled
METHODS = ("idk 40", "idk 150", "rmu 50", "rmu 150", "ga 5", "ga 20")  # and steps
N_RETAINED = 22_000  # documents of the corpus that a removal retains; the audit's text is among the others
NOISE = (0.2, 0.5)  # of a weight matrix's standard deviation


@dataclass(frozen=True)
class Kept:
    """One finished audit: of which world, which model, and which request."""

    seed: int
    subject: str
    draw: int
    report: AuditReport


def left_out(entities: Sequence[Entity], seed: int) -> list[Entity]:
    """Draw the known entities that the retrained model is not told of."""
    generator, chosen = random.Random(f"left out {seed}"), []
    for kind in dict.fromkeys(e.type for e in entities):
        chosen += generator.sample([e for e in entities if e.type == kind and e.seen == "facts"], N_LEFT_OUT)
    return chosen


def retrained(seed: int, world: Path, names: Sequence[str], out: Path) -> LanguageModel:
    """Return the world's model trained without documents that name the left-out entities; kept in RUN/never-N."""
    texts = [d.text for d in world_corpus(seed) if not any(n in d.text for n in names)]
    return trained_on(texts, seed, world, out / f"never-{seed}")


def trained_on(texts: Sequence[str], seed: int, world: Path, folder: Path) -> LanguageModel:
    """Return the world's model trained on other texts, as the world was; kept in a folder."""
    if not (folder / "config.json").exists():
        lm = load_lm(str(world), device="cpu")
        save_lm(replace(lm, model=train_model(texts, lm.tokenizer, seed=seed).bfloat16()), folder)
    return load_lm(str(folder), device="cpu")


def labels_of(world: World, seed: int, out: Path) -> list[Entity]:
    """Label part of the world's entities by the original model; kept in RUN/labels-N.jsonl."""
    path = out / f"labels-{seed}.jsonl"
    if not path.exists():
        chosen: list[Entity] = []
        for kind in dict.fromkeys(e.type for e in world.entities):
            for seen, count in GROUPS:
                chosen += [e for e in world.entities if e.type == kind and e.seen == seen][:count]
        label_entities(world.lm, chosen, templates=world.templates, out=path)
    return load_entities(path, need_labels=True)


def requests(drawn: Sequence[Entity], labels: Sequence[Entity], seed: int, count: int) -> Iterator[list[Entity]]:
    """Yield `count` requests of targets that the original model knows."""
    known = {e.key for e in labels if e.label == "known"}
    generator = random.Random(f"requests {seed}")
    for _ in range(count):
        chosen: list[Entity] = []
        for kind in dict.fromkeys(e.type for e in drawn):
            chosen += generator.sample([e for e in drawn if e.type == kind and e.key in known], N_TARGETS)
        yield chosen


@torch.no_grad()
def spoiled(lm: LanguageModel, share: float | None, seed: int) -> LanguageModel:
    """Return a copy with random weights (None), or with noise of `share` standard deviations added."""
    model, generator = copy.deepcopy(lm.model), torch_rng("benchmark.calibration.noise", seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            noise = torch.randn(parameter.shape, generator=generator) * parameter.std()
            parameter.copy_(noise if share is None else parameter + share * noise)
    return replace(lm, model=model)


def subjects(before: LanguageModel, never: LanguageModel, kinds: Sequence[str], seed: int) -> dict[str, LanguageModel]:
    """Return the models that need no request, by name."""
    every = {"never": lambda: never, "untouched": lambda: before, "random": lambda: spoiled(before, None, seed)}
    every |= {f"noise {s}": (lambda s=s: spoiled(before, s, seed)) for s in NOISE}
    return {name: make() for name, make in every.items() if not kinds or name in kinds}


def unlearned(world: World, names: Sequence[str], kind: str) -> LanguageModel:
    """Return the world's model unlearned by a method, `idk 150` say, with the SAE and latents of a demo run.

    A model that collapsed is audited too: no method may reach a pass that way.
    """
    method, steps = kind.split()
    return world.forget(names, configure(method, steps=int(steps), **MEASURED_ANYWAY)).lm


def run_seed(seed: int, worlds: Path, out: Path, n_requests: int, kinds: Sequence[str], config: AuditConfig) -> None:
    """Audit every subject of one world."""
    folder, demo = world_folder(seed, worlds), worlds / f"demo-{seed}"
    world = open_world(folder, demo, labels=(), n_retained=N_RETAINED)
    before = world.lm
    drawn = left_out(world.entities, seed)
    never = retrained(seed, folder, [e.name for e in drawn], out)
    labels = labels_of(world, seed, out)
    names = [e.name for e in drawn]  # no text about any of them: the retrained model has not read it
    documents = [d for d in world.unretained if not any(n in d.text for n in names)]
    models = subjects(before, never, kinds, seed)
    done = {(k.seed, k.subject, k.draw) for k in kept(out)}
    for index, targets in enumerate(requests(drawn, labels, seed, n_requests)):
        keys, others = {t.key for t in targets}, {e.key for e in drawn}
        visible = replace(world, labels=[e for e in labels if e.key in keys or e.key not in others])
        wanted = [*models, *(k for k in METHODS if demo.is_dir() and (not kinds or k in kinds))]
        for name in wanted:
            if (index and name != "never") or (seed, name, index) in done:
                continue
            lm = models.get(name) or unlearned(visible, sorted(keys), name)
            started = time.monotonic()
            report = visible.audit(
                lm, sorted(keys), replace(config, seed=index), text=documents, text_name="corpus, second half"
            )
            keep(out, Kept(seed, name, index, report), time.monotonic() - started)


def keep(out: Path, done: Kept, took: float) -> None:
    """Append one audit, without its long tables."""
    short = report_to_json(replace(done.report, walk={}, answers=()))
    line = {"seed": done.seed, "subject": done.subject, "draw": done.draw, "took": took, **short}
    with (out / "audits.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def kept(out: Path, policy: AuditPolicy | None = None) -> list[Kept]:
    """Return the audits so far, judged by a policy; by default the shipped one of today."""
    path, policy = out / "audits.jsonl", policy or default_policy()
    lines = [json.loads(line) for line in lines_of(read_text(path))] if path.exists() else []
    return [
        Kept(x["seed"], x["subject"], x["draw"], judged(report_from_json(x, name=str(path)), policy)) for x in lines
    ]


def judged(report: AuditReport, policy: AuditPolicy) -> AuditReport:
    """Return the report with verdict and checks by a policy; the figures stay."""
    verdict, checks = decide(report, policy)
    return replace(report, verdict=verdict, checks=tuple(checks), policy=policy.record())


def page(found: Sequence[Kept]) -> str:
    """Render the table of verdicts and, for every subject, the checks that were not passed."""
    policy = found[0].report.policy
    rows = ["| model | seed | audits | pass | inconclusive | fail |", "|---|---|---|---|---|---|"]
    blame = ["| model | checks not passed (audits) |", "|---|---|"]
    for name in dict.fromkeys(k.subject for k in found):
        own = [k for k in found if k.subject == name]
        for seed in sorted({k.seed for k in own}):
            verdicts = Counter(k.report.verdict for k in own if k.seed == seed)
            counts = " | ".join(str(verdicts[v]) for v in ("pass", "inconclusive", "fail"))
            rows.append(f"| {name} | {seed} | {sum(verdicts.values())} | {counts} |")
        checks = Counter(c.name for k in own for c in k.report.checks if c.status != "pass")
        blame.append(f"| {name} | {', '.join(f'{k} ({v})' for k, v in checks.most_common(8)) or 'none'} |")
    return "\n".join(
        [
            "# Is the audit right?",
            "",
            (__doc__ or "").replace("\n    python", "\n\n    python", 1).strip(),
            "",
            f"Policy `{policy.name}`, version {policy.version}, sha256 {policy.sha256[:16]}…; 20 targets a request.",
            "",
            *rows,
            "",
            "## What decided",
            "",
            *blame,
            "",
        ]
    )


def main() -> None:
    """Run all seeds and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--worlds", type=Path, help="Folder with world-1 ... and demo-0 ... (demo_seeds.py); world 0 ships."
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--requests", type=int, default=6, help="Requests per world audited on `never`; one on the others."
    )
    parser.add_argument("--subject", nargs="*", default=[], help="Models to audit; all by default.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--policy", type=Path, help="Judges the finished audits; by default the shipped one of today.")
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    config = AuditConfig().quick() if args.quick else AuditConfig()
    for seed in args.seeds:
        run_seed(seed, args.worlds or args.out, args.out, args.requests, args.subject, config)
    if args.docs is not None:
        args.docs.write_text(page(kept(args.out, args.policy and load_policy(args.policy))), encoding="utf-8")


if __name__ == "__main__":
    main()
