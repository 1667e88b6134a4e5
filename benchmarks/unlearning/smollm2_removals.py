"""Removals from a real language model one by one and together, in closed form unless told otherwise.

    python -m benchmarks.unlearning.smollm2_removals --model SmolLM2-135M-Instruct.Q4_1.gguf --data DATA --run RUN --out OUT \
        [--sets cities landmarks] [--method NAME] [--set NAME=VALUE …] [--only-together] [--docs docs/results/smollm2_removals.md]

RUN is what `smollm2.py` left (SAEs, activations, labelled cities); DATA also holds `landmark_in_country.json`. Landmarks are
labelled and mined by `wb` first. Every removal starts from the original model; recall is that of whole answers to held-out
wordings: of the targets, of their neighbours (known, nearest by shared answers and pieces of the name), of other known
entities, and of those among both that no removal retained. What is in OUT is not measured again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.entities.cities import ALIASES, spread
from benchmarks.unlearning.settings import read_config
from benchmarks.unlearning.smollm2 import HOOK_POINTS, N_TARGETS, draw_targets
from benchmarks.unlearning.smollm2_removals_page import render
from benchmarks.unlearning.worlds import World
from features.entities.entities import load_entities
from features.entities.templates import load_templates
from sae_train.lm.generate import text_loss
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.text.tokens import Document, load_documents
from unlearn.auditing.audit_json import findings_to_json
from unlearn.auditing.evaluations.recall import evaluate_recall
from unlearn.config import AuditConfig, UnlearnConfig
from unlearn.problem.data import text_windows
from unlearn.problem.general_text import TEXT_CTX

METHOD = "redirect-closed-form"
ASKED = AuditConfig(n_neighbours=10, max_retain=30, n_samples=0)
TEXT_WINDOWS = 100  # on which the loss is measured
LANDMARK_TEMPLATES = {
    "landmark": {
        "mention": ["This is {name}", "I read about {name}", "We talked about {name}", "A picture of {name}"],
        "country": {
            "ask": [
                "{name} is in the country of",
                "{name} belongs to the country of",
                "Whoever visits {name} is in the country of",
                "On the map, {name} is in the country of",
            ],
            "heldout": [
                "What country is {name} in? It is in the country of",
                "The country in which {name} lies is",
                "{name} can be found in the country of",
            ],
        },
    }
}


@dataclass(frozen=True)
class TextLoss:
    """The original model's loss on some general text.

    Attributes:
        windows: The text.
        before: The loss there, nats a token.
    """

    windows: list[list[int]]
    before: float


class Relation(NamedTuple):
    """Entities of one kind, labelled and mined, and the names of those to forget."""

    world: World
    targets: list[str]


def relation(name: str, args: argparse.Namespace, lm: LanguageModel, documents: list[Document]) -> Relation:
    """Return the cities as `smollm2.py` left them, or landmarks, labelled and mined."""
    if name == "cities":
        labels, templates, latents = (args.run / n for n in ("labels.jsonl", "templates.json", "latents.h5"))
        targets = draw_targets(labels)
    else:
        labels, templates, latents = landmarks(args.model, args.data, args.run, args.out)
        known = sorted(e.name for e in load_entities(labels, need_labels=True) if e.label == "known")
        targets = sorted(random.Random("smollm2 landmarks").sample(known, N_TARGETS))
    world = World(
        name=name,
        lm=lm,
        labels=load_entities(labels, need_labels=True),
        templates=load_templates(templates),
        latents=latents,
        sae_folders=tuple(args.run / f"sae-{hook_point}" for hook_point in HOOK_POINTS),
        documents=documents,
        n_retained=len(documents),
    )
    return Relation(world, targets)


def landmarks(model: str, data: Path, run: Path, out: Path) -> tuple[Path, Path, Path]:
    """Label and mine the landmarks; return labels, templates and latents."""
    entities, templates, labels, latents = (
        out / n for n in ("landmarks.jsonl", "landmark-templates.json", "landmark-labels.jsonl", "landmark-latents.h5")
    )
    asked = ("--model", model, "--templates", templates)
    if not labels.exists():
        facts = {
            s["subject"]: s["object"] for s in json.loads((data / "landmark_in_country.json").read_text())["samples"]
        }
        lines = [
            {"name": n, "type": "landmark", "facts": {"country": [c, *ALIASES.get(c, [])]}} for n, c in facts.items()
        ]
        entities.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines), encoding="utf-8")
        templates.write_text(json.dumps(LANDMARK_TEMPLATES, indent=1), encoding="utf-8")
        wb("label-entities", *asked, "--entities", entities, "--out", labels)
    if not latents.exists():
        saes = [word for name in HOOK_POINTS for word in ("--sae", run / f"sae-{name}")]
        wb("find-entity-latents", *asked, *saes, "--labels", labels, "--activations", run / "acts.h5", "--no-gate", "--out", latents)  # fmt: skip
    return labels, templates, latents


def wb(*words: object) -> None:
    """Run one command."""
    subprocess.run(["wb", *map(str, words), "--json", "--overwrite"], check=True, stdout=subprocess.DEVNULL)


def remove(world: World, text: TextLoss, names: list[str], config: UnlearnConfig) -> dict[str, Any]:
    """Forget some entities in a copy of the model; return what it says then, and the seconds, pairing and checks included."""
    unlearned = world.forget(names, config)
    context = world.context(unlearned.lm, names, ASKED, trained_on=set(unlearned.record.retained))
    return {
        "names": names,
        "seconds": unlearned.result["seconds"],
        "recall": findings_to_json(evaluate_recall(context)),
        "loss_before": text.before,
        "loss_after": text_loss(unlearned.lm, text.windows),
    }


def main() -> None:
    """Measure what is not there yet and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=("cities", "landmarks"), default=["cities", "landmarks"])
    parser.add_argument("--method", default=METHOD)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="A setting of the method.")
    parser.add_argument("--only-together", action="store_true", help="All ten at once, none alone.")
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    config = read_config(args.set, method=args.method)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    lm, documents = load_lm(args.model, device="cpu"), list(load_documents(str(args.data / "wikitext2_valid.txt.gz")))
    # Spread evenly: windows come longest first, and the last ones are headings.
    windows = spread(text_windows(lm.tokenizer, documents, ctx_len=TEXT_CTX, max_tokens=10**7), TEXT_WINDOWS)
    text = TextLoss(windows, text_loss(lm, windows))
    for name in args.sets:
        world, targets = relation(name, args, lm, documents)
        is_default = args.method == METHOD and not args.set
        title = name if is_default else ", ".join([name, args.method, *args.set])
        cells = results.setdefault(title, {})
        alone = [] if args.only_together else [[t] for t in targets]
        for names in (targets, *alone):
            key = names[0] if len(names) == 1 else "together"
            if key not in cells:
                cells[key] = remove(world, text, names, config)
                path.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    if args.docs is not None:
        args.docs.write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    main()
