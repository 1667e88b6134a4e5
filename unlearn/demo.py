"""The whole story on a fact world, in one folder: text, activations, SAEs, latents, unlearned model, audit."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features import Labels, find_entity_latents, label_entities
from features.config import GateConfig
from features.entities import Entity, load_entities
from features.factworld import shipped_world
from features.factworld.corpus import world_corpus
from features.prompts import Templates, by_type, entity_documents, load_templates
from features.store import LatentAnalysis, load_analysis
from features.training_page import write_training_page
from sae_train.activations.store import ActivationStore
from sae_train.activations.writer import write_store
from sae_train.config import CacheConfig, SaeTrainConfig
from sae_train.errors import MissingFileError
from sae_train.lm.hook_names import block_index
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.lm.tokens import Document
from sae_train.lm.windows import plan_windows
from sae_train.progress import Progress
from sae_train.runs import write_json
from sae_train.saes.interop import LoadedSae, load_sae
from sae_train.trainer import train_sae
from unlearn.audit import audit
from unlearn.config import configure
from unlearn.record import retained_of
from unlearn.report import write_audit_page
from unlearn.request import Request
from unlearn.run import unlearn


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo; everything takes about two minutes on two cores.

    Attributes:
        hook_points: Where activations are cached and SAEs trained.
        n_per_group: Entities asked about per type: facts known, name seen once, name never seen.
        n_rows: Rows in the store.
        entity_share: Share of them that are last name tokens.
        sae_tokens: Rows each SAE is trained on, repeats included.
        targets_per_type: Entities to forget, per type.
        seed: Of SAE, split, targets and fine-tune.
    """

    hook_points: tuple[str, ...] = ("layers.1", "layers.2")
    n_per_group: tuple[int, int, int] = (50, 50, 25)
    n_rows: int = 40_000
    entity_share: float = 0.5
    sae_tokens: int = 400_000
    targets_per_type: int = 5
    seed: int = 0


def run_demo(world: Path, out: Path, config: DemoConfig, stage: Progress, *, device: str = "auto") -> dict[str, Any]:
    """Run every station on a fact world and leave all files and their pages in `out`.

    Args:
        world: A world folder, as `wb world` leaves it.
        out: A new folder.
        config: Sizes and seed.
        stage: Opens the progress display of one station.
        device: Where the tensors live.

    Returns:
        The figures of every station, and the paths of the pages.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "demo.json", {"config": config, "world": world.name})
    name = "fact-world" if world == shipped_world() else world.name
    lm = replace(load_lm(str(world), device=device), name=name)
    templates = load_templates(world / "templates.json")
    entities = _asked(load_entities(world / "entities.jsonl"), config)
    documents = [Document(d.text) for d in world_corpus(_world_seed(world))]
    labels = _label(lm, entities, templates, out, stage)
    saes, figures = _train(lm, documents, entities, templates, config, out, stage, device)
    analysis = _mine(lm, saes, labels, config, out, stage)
    names = choose_targets(labels, config)
    tuned = replace(load_lm(str(world), device=device), name=name)
    unlearning = configure(seed=config.seed)
    with stage("unlearning", unlearning.steps) as advance:
        result = unlearn(
            tuned,
            saes,
            analysis,
            labels,
            templates,
            names,
            unlearning,
            out / "unlearned",
            documents=documents[: len(documents) // 2],
            advance=lambda n, terms: advance(n, **terms),
        )
    report = _audit(
        lm, tuned, result["hook_point"], saes, analysis, labels, templates, names, documents, config, out, stage
    )
    summary = _summary(figures, labels, analysis, result, report, out, time.monotonic() - started)
    write_json(out / "demo.json", {"config": config, "world": world.name, "summary": summary})
    return summary


def _world_seed(world: Path) -> int:
    """Read the seed a world was built with."""
    path = world / "world.json"
    if not path.is_file():
        raise MissingFileError(
            f"not a fact world: '{world}'", got="no world.json in it", expected="a folder of wb world"
        )
    return int(json.loads(path.read_text())["seed"])


def _asked(entities: Sequence[Entity], config: DemoConfig) -> list[Entity]:
    """Take the first entities of every type and group."""
    most = dict(zip(("facts", "name", "never"), config.n_per_group, strict=True))
    return [
        e
        for members in by_type(entities).values()
        for group, count in most.items()
        for e in [m for m in members if m.seen == group][:count]
    ]


def choose_targets(labels: Sequence[Entity], config: DemoConfig) -> list[str]:
    """Draw the entities to forget among those the model knows, as `type:name`."""
    generator = np.random.default_rng([0xF0, config.seed])
    chosen = []
    for members in by_type(labels).values():
        known = [e.key for e in members if e.label == "known" and e.seen == "facts"]
        chosen += [known[i] for i in generator.permutation(len(known))[: config.targets_per_type]]
    return chosen


def _label(lm: LanguageModel, entities: Sequence[Entity], templates: Templates, out: Path, stage: Progress) -> Labels:
    """Ask the model about every entity."""
    return label_entities(lm, entities, templates=templates, out=out / "labels.jsonl", overwrite=True, progress=stage)


def _train(
    lm: LanguageModel,
    documents: Sequence[Document],
    entities: Sequence[Entity],
    templates: Templates,
    config: DemoConfig,
    out: Path,
    stage: Progress,
    device: str,
) -> tuple[list[LoadedSae], dict[str, Any]]:
    """Cache activations and train one SAE per hook point; names that no training saw stay out of both."""
    seen = [e for e in entities if e.seen != "never"]
    plan = plan_windows(
        documents,
        lm.tokenizer,
        ctx_len=64,
        max_rows=config.n_rows,
        entity_documents=entity_documents(seen, templates, seed=config.seed),
        entity_share=config.entity_share,
        seed=config.seed,
    )
    cache = CacheConfig(hook_points=config.hook_points, ctx_len=64, batch_size=128, entity_share=config.entity_share)
    store_path = out / "acts.h5"
    with stage("caching activations", plan.n_rows) as advance:
        cached = write_store(
            lm, plan, cache, store_path, provenance={"model": lm.name, "text": "corpus"}, advance=advance
        )
    quality: dict[str, Any] = {"n_rows": cached.n_rows, "cache_tokens_per_s": cached.tokens_per_s}
    saes = []
    with ActivationStore(store_path) as store:
        for name in config.hook_points:
            settings = SaeTrainConfig(
                name,
                k=8,
                expansion=2,
                tokens=config.sae_tokens,
                batch_size=1024,
                holdout_share=0.1,
                seed=config.seed,
            )
            with stage(f"training an SAE at {name}", config.sae_tokens) as advance:
                quality[name] = train_sae(
                    store,
                    settings,
                    out / f"sae-{name}",
                    device=device,
                    advance=lambda n, terms, a=advance: a(n, **terms),
                )
            write_training_page(out / f"sae-{name}")
            saes.append(load_sae(out / f"sae-{name}", device=lm.device))
    return saes, quality


def _mine(
    lm: LanguageModel, saes: Sequence[LoadedSae], labels: Labels, config: DemoConfig, out: Path, stage: Progress
) -> LatentAnalysis:
    """Find the latents; the rule on running text is off, since this world's text is about entities only."""
    find_entity_latents(
        lm,
        saes,
        labels,
        store=out / "acts.h5",
        out=out / "latents.h5",
        gate=GateConfig(seed=config.seed, n_blocks=lm.n_blocks),
        max_general_rate=1.0,
        seed=config.seed,
        overwrite=True,
        progress=stage,
    )
    return load_analysis(out / "latents.h5")


def _audit(
    before: LanguageModel,
    after: LanguageModel,
    hook_point: str,
    saes: Sequence[LoadedSae],
    analysis: LatentAnalysis,
    labels: Sequence[Entity],
    templates: Templates,
    names: Sequence[str],
    documents: Sequence[Document],
    config: DemoConfig,
    out: Path,
    stage: Progress,
) -> dict[str, Any]:
    """Audit on text that the fine-tune did not retain."""
    with stage("auditing", None) as advance:
        request = Request(
            labels,
            templates,
            names,
            hook_point=hook_point,
            analysis=analysis,
            saes=[s for s in saes if s.hook_point == hook_point],
            trained_on=retained_of(str(out / "unlearned")),
            documents=documents[len(documents) // 2 :],
            text_name="the world's corpus, second half",
            facts={"model": before.name, "unlearned": str(out / "unlearned"), "method": "redirect"},
        )
        report = audit(before, after, request, advance=lambda name: advance(1, now=name))
    write_json(out / "audit" / "audit.json", report)
    write_audit_page(report, out / "audit" / "audit.html")
    return report


def _summary(
    figures: dict[str, Any],
    labels: Sequence[Entity],
    analysis: LatentAnalysis,
    result: dict[str, Any],
    report: dict[str, Any],
    out: Path,
    seconds: float,
) -> dict[str, Any]:
    """Gather the figures of every station."""
    hook_point = result["hook_point"]
    unknown = analysis.selected_rows("unknown")
    first = block_index(result["hook_point"])
    places = report["indistinguishability"]
    blocks = [b for name, b in places.items() if "," not in name and block_index(name) >= first]
    return {
        "verdict": report["verdict"],
        "seconds": seconds,
        "known": sum(e.label == "known" for e in labels),
        "unknown": sum(e.label == "unknown" for e in labels),
        "n_rows": figures["n_rows"],
        "hook_point": hook_point,
        "fvu": figures[hook_point]["fvu"],
        "l0": figures[hook_point]["l0"],
        "frac_dead": figures[hook_point]["frac_dead"],
        "latents_known": len(analysis.selected_rows("known")),
        "latents_unknown": len(unknown),
        "best_unknown_heldout_separation": unknown[0]["heldout_separation"] if unknown else None,
        "score_auroc": analysis.at(hook_point).score.value,
        "probe_auroc": analysis.at(hook_point).probe.value,
        "n_targets": report["forget"]["n"],
        "recall_before": report["forget"]["recall_before"],
        "recall_after": report["forget"]["recall_after"],
        "ranking_after": report["forget"]["ranking_after"],
        "ranking_chance": report["ranking_chance"],
        "neighbours_before": report["neighbours"]["recall_before"],
        "neighbours_after": report["neighbours"]["recall_after"],
        "retain_before": report["retain"]["recall_before"],
        "retain_after": report["retain"]["recall_after"],
        "untouched_before": report["untouched"]["recall_before"],
        "untouched_after": report["untouched"]["recall_after"],
        "loss_before": report["utility"]["loss_before"],
        "loss_after": report["utility"]["loss_after"],
        "called_unknown": report["probe"]["unknown_after"],
        "auroc_before": min(b["auroc_before"] for b in blocks),
        "auroc_after": max(b["auroc"] for b in blocks),
        "control_high": max(b["control_high"] for b in blocks),
        "steer_back_recall": report["attacks"]["steer-back"]["recall_after"],
        "unlearn_seconds": result["seconds"],
        "audit_seconds": report["seconds"],
        "latents_page": str(out / "latents.html"),
        "audit_page": str(out / "audit" / "audit.html"),
    }
