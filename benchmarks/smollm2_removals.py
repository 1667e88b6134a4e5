"""Removals from a real language model one by one and together, in closed form unless told otherwise.

    python benchmarks/smollm2_removals.py --model SmolLM2-135M-Instruct.Q4_1.gguf --data DATA --run RUN --out OUT \
        [--sets cities landmarks] [--method NAME] [--set NAME=VALUE …] [--only-together] [--docs docs/results/smollm2_removals.md]

RUN is what `smollm2.py` left (SAEs, activations, labelled cities); DATA also holds `landmark_in_country.json`. Landmarks are
labelled and mined by `wb` first. Every removal starts from the original model; recall is that of whole answers to held-out
wordings: of the targets, of their neighbours (known, nearest by shared answers and pieces of the name), of other known
entities, and of those among both that no removal retained. What is in OUT is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cities import ALIASES, spread
from redirection_ablation import problem_of, read_setting, tune
from smollm2 import HOOK_POINTS, N_TARGETS, draw_targets
from smollm2_removals_page import render

from features.analysis.store import LatentAnalysis, load_analysis
from features.entities.entities import Entity, load_entities
from features.entities.prompts import Templates, load_templates
from sae_train.lm.generate import text_loss
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.saes.base import Sae
from sae_train.saes.interop import load_sae
from sae_train.text.tokens import Document, load_documents
from unlearn.auditing.audit_json import findings_to_json
from unlearn.auditing.evaluations.recall import evaluate_recall
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig, UnlearnConfig, configure
from unlearn.problem.data import text_windows
from unlearn.removals.run import TEXT_CTX

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


@dataclass
class Relation:
    """Entities of one kind, labelled and mined.

    Attributes:
        labels: Labelled entities.
        templates: How they are asked about.
        analysis: Mined latents.
        targets: Names to forget.
    """

    labels: list[Entity]
    templates: Templates
    analysis: LatentAnalysis
    targets: list[str]


@dataclass
class Model:
    """The original model and what was made of it.

    Attributes:
        lm: Itself.
        saes: Trained on its activations.
        documents: General text.
        windows: Some of it, on which the loss is measured.
        loss_before: The original model's there.
    """

    lm: LanguageModel
    saes: list[Sae]
    documents: list[Document]
    windows: list[list[int]]
    loss_before: float


def cities(run: Path) -> Relation:
    """Return the cities as `smollm2.py` left them."""
    labels, templates = run / "labels.jsonl", run / "templates.json"
    return Relation(
        load_entities(labels, need_labels=True),
        load_templates(templates),
        load_analysis(run / "latents.h5"),
        draw_targets(labels),
    )


def landmarks(model: str, data: Path, run: Path, out: Path) -> Relation:
    """Label and mine the landmarks, and draw some of those that the model knows."""
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
    found = load_entities(labels, need_labels=True)
    known = sorted(e.name for e in found if e.label == "known")
    drawn = sorted(random.Random("smollm2 landmarks").sample(known, N_TARGETS))
    return Relation(found, load_templates(templates), load_analysis(latents), drawn)


def wb(*words: object) -> None:
    """Run one command."""
    subprocess.run(["wb", *map(str, words), "--json", "--overwrite"], check=True, stdout=subprocess.DEVNULL)


def remove(model: Model, relation: Relation, names: list[str], config: UnlearnConfig) -> dict[str, Any]:
    """Forget some entities in a copy of the model; return what it says then."""
    started = time.monotonic()
    lm = replace(model.lm, model=copy.deepcopy(model.lm.model))
    problem = problem_of(
        lm,
        model.saes,
        relation.analysis,
        relation.labels,
        relation.templates,
        model.documents,
        names,
        config,
    )
    tune(problem)
    seconds = time.monotonic() - started
    request = Request(
        relation.labels,
        relation.templates,
        names,
        analysis=relation.analysis,
        trained_on={e.key for e in problem.sets.retain},
    )
    found = evaluate_recall(make_context(model.lm, lm, request, ASKED))
    return {
        "names": names,
        "seconds": seconds,
        "recall": findings_to_json(found),
        "loss_before": model.loss_before,
        "loss_after": text_loss(lm, model.windows),
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
    config = configure(args.method, **dict(map(read_setting, args.set)))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    lm, documents = load_lm(args.model, device="cpu"), list(load_documents(str(args.data / "wikitext2_valid.txt.gz")))
    # Spread evenly: windows come longest first, and the last ones are headings.
    windows = spread(text_windows(lm.tokenizer, documents, ctx_len=TEXT_CTX, max_tokens=10**7), TEXT_WINDOWS)
    saes = [load_sae(args.run / f"sae-{name}") for name in HOOK_POINTS]
    model = Model(lm, saes, documents, windows, loss_before=text_loss(lm, windows))
    for name in args.sets:
        relation = cities(args.run) if name == "cities" else landmarks(args.model, args.data, args.run, args.out)
        is_default = args.method == METHOD and not args.set
        title = name if is_default else ", ".join([name, args.method, *args.set])
        cells = results.setdefault(title, {})
        alone = [] if args.only_together else [[t] for t in relation.targets]
        for targets in ([*relation.targets], *alone):
            key = targets[0] if len(targets) == 1 else "together"
            if key not in cells:
                cells[key] = remove(model, relation, targets, config)
                path.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    if args.docs is not None:
        args.docs.write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    main()
