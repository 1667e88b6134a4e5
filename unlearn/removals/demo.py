"""The whole pipeline on a fact world, in one folder: labels, activations, SAEs, latents, unlearning, audit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from features import Labels, find_entity_latents, label_entities
from features.analysis.store import LatentAnalysis
from features.config import GateConfig
from features.entities.entities import Entity, load_entities
from features.entities.prompts import by_type, entity_documents
from features.entities.templates import Templates, load_templates
from features.factworld import shipped_world
from features.factworld.corpus import world_corpus
from features.pages.training_page import write_training_page
from sae_train import ActivationStore, cache_activations, load_lm, train_sae
from sae_train.errors import MissingFileError
from sae_train.fields import config_class
from sae_train.lm.hook_names import block_index
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.run.claims import clear_output
from sae_train.run.notes import note
from sae_train.run.outputs import claimed
from sae_train.run.progress import Advance, Progress, shown
from sae_train.run.runs import write_json
from sae_train.saes.base import Sae
from sae_train.text.tokens import Document
from sae_train.text_files import read_json
from unlearn.auditing.audit_report import AuditReport
from unlearn.removals.removal_audit import audit
from unlearn.removals.unlearned import Unlearned
from unlearn.removals.unlearning import unlearn

LATENTS_PAGE = "latents.html"


@config_class
class DemoConfig:
    """Sizes of the demo; everything takes about a minute and a half on two cores.

    What differs from the commands' own defaults saves time: fewer wordings label, fewer and smaller steps with more
    weight on retention unlearn (docs/results/log_redirection.md, "fewer steps for the demo"), and the smallest step
    size of the attacks by lessons is left out.
    """

    hook_points: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="Places in the model where activations are cached and SAEs trained."),
    ] = ("layers.1", "layers.2")
    n_per_group: Annotated[
        tuple[int, int, int],
        Field(description="Entities asked about per type: facts known, name seen once, name never seen."),
    ] = (50, 50, 25)
    n_rows: Annotated[int, Field(ge=1, description="Rows (one a token) in the activation store.")] = 40_000
    frac_entity_rows: Annotated[
        float, Field(ge=0, lt=1, description="Share of the rows that are last name tokens in contexts of entities.")
    ] = 0.5
    sae_tokens: Annotated[int, Field(ge=1, description="Rows that each SAE is trained on, repeats included.")] = 400_000
    targets_per_type: Annotated[int, Field(ge=1, description="Entities to forget per type.")] = 5
    every_wording: Annotated[
        int, Field(ge=1, description="Of an attribute's training wordings every so many-th is asked for labelling.")
    ] = 3
    steps: Annotated[int, Field(ge=1, description="Optimizer steps of the unlearning.")] = 160
    lr: Annotated[float, Field(gt=0, description="Step size of the unlearning at its highest.")] = 2e-3
    retain_weight: Annotated[
        float, Field(ge=0, description="Weight in the unlearning of everything that has to stay as it is.")
    ] = 20.0
    attack_lrs: Annotated[
        tuple[float, ...], Field(min_length=1, description="Step sizes of the attacks by lessons.")
    ] = (3e-4, 1e-3)
    seed: Annotated[int, Field(ge=0, description="Seed of SAEs, split, targets and fine-tuning.")] = 0


def run_demo(
    out: str | Path,
    *,
    world: str | Path | None = None,
    config: DemoConfig | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run every station on a fact world and leave all files and their pages in `out`.

    Args:
        out: A new folder.
        world: A world folder, as `wb world` leaves it; by default the one that ships with the package.
        config: Sizes and seed.
        overwrite: Replace `out`.
        device: Where the tensors live.
        progress: Where to show how far each station is; None shows it on the terminal, in the notebook or in the log.

    Returns:
        The figures of every station, and the paths of the pages.
    """
    started, out, config = time.monotonic(), Path(out), config or DemoConfig()
    with claimed(out, overwrite=overwrite):
        clear_output(out, overwrite=overwrite)
        return _stations(out, world, config, device, timed(progress or shown), started)


def _stations(
    out: Path, world: str | Path | None, config: DemoConfig, device: str, progress: Progress, started: float
) -> dict[str, Any]:
    """Run one station after the other."""
    folder = shipped_world() if world is None else Path(world)
    seed = _world_seed(folder)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "demo.json", {"config": config, "world": folder.name})
    lm = load_lm("fact-world" if folder == shipped_world() else str(folder), device=device)
    templates = load_templates(folder / "templates.json")
    entities = _asked(load_entities(folder / "entities.jsonl"), config)
    documents = [Document(d.text) for d in world_corpus(seed)]
    labels = _labelled(lm, entities, templates, out, config, progress)
    seen = [e for e in entities if e.seen != "never"]  # what no training saw stays out of store and SAEs
    store = _cached(lm, documents, seen, templates, out, config, progress)
    saes = [_trained(store, name, out, config, device, progress) for name in config.hook_points]
    latents = find_entity_latents(
        lm,
        saes,
        labels,
        store=store,
        max_general_rate=1.0,  # no rule on running text: that of this world is about entities only
        gate=GateConfig(seed=config.seed, n_blocks=lm.n_blocks),
        seed=config.seed,
        out=out / "latents.h5",
        progress=progress,
    )
    note(f"the latents can be looked at while the rest runs: {out / LATENTS_PAGE}", is_news=True)
    names, half = choose_targets(labels, config), len(documents) // 2
    words = {"forget": names, "progress": progress}
    tuning = {name: getattr(config, name) for name in ("steps", "lr", "retain_weight", "seed")}
    forgotten = unlearn(lm, latents, text=documents[:half], out=out / "unlearned", **tuning, **words)
    report = audit(
        lm,
        forgotten,
        latents,
        sae=[s for s in saes if s.hook_point == forgotten.hook_point],
        text=documents[half:],  # which the fine-tune did not retain
        text_name="the world's corpus, second half",
        out=out / "audit",
        attack_lrs=config.attack_lrs,
        **words,
    )
    chosen = next(s for s in saes if s.hook_point == forgotten.hook_point)
    figures = summary_of(labels, chosen, latents, forgotten, report, out)
    summary = {**figures, "n_rows": store.n_rows, "seconds": time.monotonic() - started}
    write_json(out / "demo.json", {"config": config, "world": folder.name, "summary": summary})
    return summary


def _labelled(
    lm: LanguageModel,
    entities: Sequence[Entity],
    templates: Templates,
    out: Path,
    config: DemoConfig,
    progress: Progress,
) -> Labels:
    """Label the entities by some of the wordings; everything after it knows all of them."""
    ask = {k: {a: w[:: config.every_wording] for a, w in v.items()} for k, v in templates.ask.items()}
    asked = replace(templates, ask=ask)
    return Labels.of(
        label_entities(lm, entities, templates=asked, out=out / "labels.jsonl", progress=progress), templates
    )


def _cached(
    lm: LanguageModel,
    documents: Sequence[Document],
    seen: Sequence[Entity],
    templates: Templates,
    out: Path,
    config: DemoConfig,
    progress: Progress,
) -> ActivationStore:
    """Cache activations of the corpus, last name tokens in contexts of entities mixed in."""
    return cache_activations(
        lm,
        documents,
        config.hook_points,
        out=out / "acts.h5",
        entity_documents=entity_documents(seen, templates, seed=config.seed),
        frac_entity_rows=config.frac_entity_rows,
        max_tokens=config.n_rows,
        ctx_len=64,
        batch_size=128,
        seed=config.seed,
        progress=progress,
    )


def _trained(
    store: ActivationStore, hook_point: str, out: Path, config: DemoConfig, device: str, progress: Progress
) -> Sae:
    """Train one SAE and write its page."""
    sae = train_sae(
        store,
        hook_point,
        out=out / f"sae-{hook_point}",
        k=8,
        expansion=2,
        tokens=config.sae_tokens,
        batch_size=1024,
        frac_holdout=0.1,
        seed=config.seed,
        device=device,
        progress=progress,
    )
    write_training_page(out / f"sae-{hook_point}")
    return sae


def timed(progress: Progress) -> Progress:
    """Return a progress that also says, when a loop is over, what it took."""

    @contextmanager
    def opened(description: str, total: float | int | None = None, *, unit: str = "") -> Iterator[Advance]:
        started = time.monotonic()
        with progress(description, total, unit=unit) as advance:
            yield advance
        note(f"{description}: {time.monotonic() - started:.1f} s")

    return opened


def _world_seed(world: Path) -> int:
    """Read the seed a world was built with."""
    path = world / "world.json"
    if not path.is_file():
        raise MissingFileError(
            f"not a fact world: '{world}'", got="no world.json in it", expected="a folder of wb world"
        )
    return int(read_json(path)["seed"])


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
    generator = rng("demo.targets", config.seed)
    chosen = []
    for members in by_type(labels).values():
        known = [e.key for e in members if e.label == "known" and e.seen == "facts"]
        chosen += [known[i] for i in generator.permutation(len(known))[: config.targets_per_type]]
    return chosen


def summary_of(
    labels: Labels, sae: Sae, analysis: LatentAnalysis, forgotten: Unlearned, report: AuditReport, out: Path
) -> dict[str, Any]:
    """Gather the figures of every station."""
    hook_point = forgotten.hook_point
    unknown = analysis.selected_rows("unknown")
    first = block_index(hook_point)
    places = report.indistinguishability
    recall, ranking = report.forget.recall, report.forget.ranking
    kept = [group.recall for group in (report.neighbours, report.retain, report.untouched)]
    assert recall and ranking and all(kept) and report.utility and report.probe, "a demo skips nothing"
    neighbours, retain, untouched = (figure for figure in kept if figure is not None)
    blocks = [b for name, b in places.items() if "," not in name and block_index(name) >= first]
    return {
        "verdict": report.verdict,
        "known": sum(e.label == "known" for e in labels),
        "unknown": sum(e.label == "unknown" for e in labels),
        "hook_point": hook_point,
        "fvu": sae.metrics["fvu"],
        "l0": sae.metrics["l0"],
        "frac_dead": sae.metrics["frac_dead"],
        "latents_known": len(analysis.selected_rows("known")),
        "latents_unknown": len(unknown),
        "best_unknown_heldout_separation": unknown[0]["heldout_separation"] if unknown else None,
        "score_auroc": analysis.at(hook_point).score.value,
        "probe_auroc": analysis.at(hook_point).probe.value,
        "n_targets": report.forget.n,
        "recall_before": recall.before.value,
        "recall_after": recall.after.value,
        "ranking_after": ranking.after.value,
        "ranking_chance": report.ranking_chance,
        "neighbours_before": neighbours.before.value,
        "neighbours_after": neighbours.after.value,
        "retain_before": retain.before.value,
        "retain_after": retain.after.value,
        "untouched_before": untouched.before.value,
        "untouched_after": untouched.after.value,
        "loss_before": report.utility.loss_before,
        "loss_after": report.utility.loss_after,
        "called_unknown": report.probe.unknown_after.value,
        "auroc_before": min(b.auroc_before for b in blocks),
        "auroc_after": max(b.auroc.value for b in blocks),
        "control_high": max(b.control_high for b in blocks),
        "steer_back_recall": report.attacks["steer-back"].recall_after.value,
        "unlearn_seconds": forgotten.result["seconds"],
        "audit_seconds": report.seconds,
        "latents_page": str(out / LATENTS_PAGE),
        "audit_page": str(out / "audit" / "audit.html"),
    }
