"""How often never-known groups fall outside the matched null, at every kind of place.

    python -m benchmarks.audit.null_rate --out RUN --worlds DIR [--seeds 0 1 2 3 4] [--draws 200] [--requests 40]
        [--docs docs/results/null_rate.md]

On the world's model trained without 40 known entities (`audit_calibration.py`; nobody in it knows the targets):

drawn     groups of unknown entities of the audit as pretend targets, their history known: the audit's own statistics on
          activations that are read once
left out  requests of 20 of the 40 entities, their history not said: what an audit does with a model that never knew them

At a level of 5 % each kind of place, and all together, is to be outside in about 5 %. `drawn` is exact by construction, so
that it tests the code; `left out` tests the assumption, and takes the history that fits best, so that it may stay below.
A world's draws are kept in RUN/null-SEED.json and not made twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.audit.audit_calibration import labels_of, left_out, requests, retrained
from benchmarks.audit.detector_models import Subject, with_labels
from benchmarks.unlearning.worlds import open_world, world_folder
from features.entities.entities import Entity
from features.entities.prompts import by_type
from features.stats.intervals import wilson
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.run.notes import note
from sae_train.run.runs import write_json
from sae_train.text_files import read_json
from unlearn.auditing.context import AuditContext
from unlearn.auditing.evaluations.matched_null import LEVEL, Reading, matched_null, read_places
from unlearn.auditing.evaluations.matching import Matching, matchings
from unlearn.auditing.evaluations.places import EARLIER, is_last_token
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig

N_PER_TYPE = 5
KINDS: dict[str, Callable[[str], bool]] = {
    "all places": lambda place: True,
    "last name token": is_last_token,
    "earlier name tokens": lambda place: EARLIER in place,
    "whole name": lambda place: place.endswith("whole name"),
    "end of question": lambda place: place.endswith("end of question"),
}


class Draw(NamedTuple):
    """The p of one group by kind of place."""

    sort: str
    seed: int
    p: dict[str, float]


def by_kind(context: AuditContext, readings: dict[str, Reading], tried: Sequence[Matching]) -> dict[str, float]:
    """Return the p of the targets by kind of place."""
    found = {}
    for kind, belongs in KINDS.items():
        own = {place: reading for place, reading in readings.items() if belongs(place)}
        found[kind] = matched_null(context, own, tried).p
    return found


def opened(seed: int, worlds: Path, out: Path) -> tuple[Subject, LanguageModel]:
    """Open a world and the model that was never told of its left-out entities."""
    folder = world_folder(seed, worlds)
    world = open_world(folder, worlds / f"demo-{seed}", labels=(), n_documents=0)
    drawn = left_out(world.entities, seed)
    labelled = replace(world, labels=labels_of(world, seed, out))
    never = retrained(seed, folder, [e.name for e in drawn], out)
    return Subject(labelled, seed, folder, out, drawn, ()), never


def context_of(subject: Subject, never: LanguageModel, targets: Sequence[Entity], config: AuditConfig) -> AuditContext:
    """Return what an audit of the retrained model measures on."""
    world = with_labels(subject, targets).world
    request = Request(world.labels, world.templates, sorted(e.key for e in targets))
    return make_context(world.lm, never, request, config)


def drawn_groups(subject: Subject, never: LanguageModel, config: AuditConfig, count: int) -> Iterator[Draw]:
    """Yield groups of the audit's unknown entities, as many of a type as a request has."""
    (targets,) = requests(subject.left_out, subject.world.labels, subject.seed, 1)
    whole = context_of(subject, never, targets, config)
    readings = read_places(whole, matchings(whole))
    pools = by_type(whole.unknown)
    for index in range(count):
        generator = rng("benchmark.null_rate.groups", subject.seed, index)
        chosen: list[Entity] = []
        for members in pools.values():
            chosen += [members[i] for i in generator.permutation(len(members))[:N_PER_TYPE]]
        keys, own = {e.key for e in chosen}, replace(config, seed=index)
        rest = [e for e in whole.unknown if e.key not in keys]
        context = replace(whole, forget=chosen, unknown=rest, config=own)
        tried = matchings(context)
        if tried:  # a group that leaves fewer of its type and history than it takes has nobody to be exchanged for
            yield Draw("drawn", subject.seed, by_kind(context, readings, tried))


def left_out_groups(subject: Subject, never: LanguageModel, config: AuditConfig, count: int) -> Iterator[Draw]:
    """Yield requests about the entities that the model was never told of."""
    for index, targets in enumerate(requests(subject.left_out, subject.world.labels, subject.seed, count)):
        context = context_of(subject, never, targets, replace(config, seed=index))
        tried = matchings(context)
        yield Draw("left out", subject.seed, by_kind(context, read_places(context, tried), tried))


def table(draws: Sequence[Draw]) -> str:
    """Render how often each sort of group is outside, by kind of place."""
    rows = ["| groups | worlds | draws | " + " | ".join(KINDS) + " |", "|---|---|---|" + "---|" * len(KINDS)]
    for sort in dict.fromkeys(d.sort for d in draws):
        own = [d for d in draws if d.sort == sort]
        cells = []
        for kind in KINDS:
            hits = sum(d.p[kind] <= LEVEL for d in own)
            low, high = wilson(float(hits), len(own))
            cells.append(f"{hits / len(own):.3f} ({low:.3f} to {high:.3f})")
        rows.append(f"| {sort} | {len({d.seed for d in own})} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def draws_of(seed: int, worlds: Path, out: Path, args: argparse.Namespace) -> list[Draw]:
    """Return the draws of one world; kept whole or not at all."""
    path, asked = out / f"null-{seed}.json", [args.draws, args.requests, args.permutations]
    if path.exists():
        raw = read_json(path, expected="draws of a world")
        if raw["asked"] == asked:
            return [Draw(**draw) for draw in raw["draws"]]
    subject, never = opened(seed, worlds, out)
    config = AuditConfig(permutations=args.permutations)
    found = [*drawn_groups(subject, never, config, args.draws), *left_out_groups(subject, never, config, args.requests)]
    write_json(path, {"asked": asked, "draws": [draw._asdict() for draw in found]})
    return found


def main() -> None:
    """Draw, print the table, and write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worlds", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--draws", type=int, default=200, help="Groups of unknown entities per world.")
    parser.add_argument("--requests", type=int, default=40, help="Requests about left-out entities per world.")
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    draws: list[Draw] = []
    for seed in args.seeds:
        draws += draws_of(seed, args.worlds or args.out, args.out, args)
        note(table(draws))
    if args.docs is not None:
        intro = (__doc__ or "").replace("\n    python", "\n\n    python", 1).strip()
        args.docs.write_text(f"# The rate of the matched null\n\n{intro}\n\n{table(draws)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
