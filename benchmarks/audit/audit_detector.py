"""The audit as a detector: models of known truth, cheats trained against it among them, and its error rates.

    python -m benchmarks.audit.audit_detector --out RUN --worlds DIR [--seeds 0 1 2 3 4] [--cells N] [--only WORD …]
        [--docs docs/results/audit_detector.md]

never, half, taught  the world's language model trained again without what names 40 known entities, without half of their
                     facts, with the first 1, 3 or 10 documents about each
untouched, damaged   the world's own model, with a little noise, rounded to four bits
method               every method of the registry at three strengths, with SAEs and latents of DIR/demo-SEED (`wb demo`)
near miss            redirection without its guard, without erasing, half-way; closed form over its range
cheat                trained against the audit's own statistics (`detector_cheats.py`)

Truth is by construction for the first two rows. The others have not forgotten where longer lessons than the audit's (other
facts taught, 200 steps) bring untaught facts back; what passes these stands apart and is counted nowhere. Worlds are made
by `wb world`, world 0 ships. Every cell is a file in RUN/cells and not made twice; `--cells N` makes N more and ends, so
that a machine with little time makes a part, and several machines may share RUN with a seed each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.audit.audit_calibration import N_RETAINED, labels_of, left_out, requests
from benchmarks.audit.detector_cells import CERTAIN, Cell, Evidence, as_line, cell_path, judged_by, keep, kept
from benchmarks.audit.detector_models import Model, Subject, models, with_labels
from benchmarks.audit.detector_page import page
from benchmarks.unlearning.worlds import World, open_world, world_folder
from features.entities.entities import Entity
from sae_train.lm.models import LanguageModel
from sae_train.run.notes import note
from sae_train.text.tokens import Document
from unlearn.auditing.attacks.path import PathConfig
from unlearn.auditing.attacks.relearn import relearn
from unlearn.auditing.policy import load_policy
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig

LONGER = {"steps": (100, 200), "lrs": (3e-4, 1e-3), "max_wordings": 2}
OTHER_PARTING = 1000  # added to the audit's seed: other facts are taught than in its own lessons


@dataclass(frozen=True)
class Job:
    """One cell to be made."""

    seed: int
    name: str
    model: Model
    draw: int


def jobs(out: Path, seeds: Sequence[int], worlds: Path, only: Sequence[str]) -> Iterator[Job]:
    """Yield the cells that are not there yet: every seed's first model, then every seed's second one, and so on.

    Args:
        out: Of the run.
        seeds: Of the worlds.
        worlds: Where they and their demos lie.
        only: Beginnings of names or families; all by default.
    """
    for name, model in models().items():
        if only and not any(word.startswith(tuple(only)) for word in (name, model.family)):
            continue
        for draw in range(model.n_draws):
            for seed in seeds:
                has_demo = (worlds / f"demo-{seed}").is_dir()
                if (has_demo or not model.needs_demo) and not cell_path(out, seed, name, draw).exists():
                    yield Job(seed, name, model, draw)


def opened(seed: int, worlds: Path, out: Path) -> Subject:
    """Open a world with its labels and the entities that are left out of the retrained models."""
    folder = world_folder(seed, worlds)
    world = open_world(folder, worlds / f"demo-{seed}", labels=(), n_retained=N_RETAINED)
    drawn = left_out(world.entities, seed)
    labelled = replace(world, labels=labels_of(world, seed, out))
    return Subject(labelled, seed, folder, out, drawn, ())


def run_job(job: Job, subject: Subject, config: AuditConfig) -> Cell:
    """Make a model, audit it, and find out by longer lessons what is left, where that is not known."""
    started = time.monotonic()
    asked = list(requests(subject.left_out, subject.world.labels, subject.seed, job.draw + 1))[job.draw]
    own = with_labels(subject, asked)
    lm = job.model.make(own)
    names, settings = sorted(e.key for e in asked), replace(config, seed=job.draw)
    text = {"text": general_text(own.world, own.left_out), "text_name": "corpus, second half"}
    report = own.world.audit(lm, names, settings, **text)
    evidence = None if job.model.family in CERTAIN else longer_lessons(own.world, lm, names, settings)
    return Cell(job.seed, job.model.family, job.name, job.draw, report, evidence, time.monotonic() - started)


def general_text(world: World, gone: Sequence[Entity]) -> list[Document]:
    """Return documents that no removal retained and that name nobody whom a retrained model was not told of."""
    return [d for d in world.unretained if not any(e.name in d.text for e in gone)]


def longer_lessons(world: World, lm: LanguageModel, names: Sequence[str], config: AuditConfig) -> Evidence:
    """Return what lessons bring back that are longer than the audit's and tell other facts."""
    context = make_context(world.lm, lm, Request(world.labels, world.templates, names), config)
    path = PathConfig(**LONGER, max_targets=config.max_attacked, seed=config.seed + OTHER_PARTING)
    best = relearn(lm, context.forget, context.control, context.templates, path).best
    return Evidence(best.target.value, best.control)


def main() -> None:
    """Make cells and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worlds", type=Path, help="Folder with world-1 … and demo-0 …; by default that of the run.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cells", type=int, help="Most cells to make; by default all that are missing.")
    parser.add_argument("--only", nargs="*", default=[], help="Beginnings of names or families of models.")
    parser.add_argument("--full", action="store_true", help="Audit with all draws and lessons, not with `--quick`'s.")
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--policies", type=Path, nargs="+", default=[Path("default-v3"), Path("default-v4")])
    args = parser.parse_args()
    policies = [load_policy(path) for path in args.policies]
    (args.out / "cells").mkdir(parents=True, exist_ok=True)
    config, worlds = AuditConfig() if args.full else AuditConfig().quick(), args.worlds or args.out
    subjects: dict[int, Subject] = {}
    for index, job in enumerate(jobs(args.out, args.seeds, worlds, args.only)):
        if args.cells is not None and index >= args.cells:
            break
        if job.seed not in subjects:
            subjects[job.seed] = opened(job.seed, worlds, args.out)
        cell = run_job(job, subjects[job.seed], config)
        keep(args.out, cell)
        note(as_line(cell))
    if args.docs is not None:
        intro = (__doc__ or "").replace("\n    python", "\n\n    python", 1)
        cells = kept(args.out)
        judged = {f"{p.name} version {p.version} ({p.sha256[:8]})": judged_by(cells, p) for p in policies}
        old = args.docs.read_text(encoding="utf-8") if args.docs.exists() else ""
        args.docs.write_text(page(judged, intro, old), encoding="utf-8")


if __name__ == "__main__":
    main()
