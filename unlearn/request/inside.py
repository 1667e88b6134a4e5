"""What is inside the model: where the knowledge passes, activations there, SAEs, latents. The same for every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from features import LatentAnalysis, find_entity_latents
from features.analysis.sources import Sources
from features.analysis.store import load_analysis
from features.causal.gate import propose_hook_points, sweep_blocks
from features.config import GateConfig
from features.entities.prompts import entity_documents
from features.labels.labels import Labels
from features.pages.training_page import write_training_page
from sae_train import ActivationStore, Sae, cache_activations, train_sae
from sae_train.run.claims import is_finished
from sae_train.run.notes import note
from sae_train.run.progress import Progress
from sae_train.run.runs import write_json
from sae_train.saes.interop import sae_hash
from sae_train.text.tokens import Corpus
from sae_train.text_files import read_json
from unlearn.request.inputs import Inputs
from unlearn.request.stations import Workshop

GATE, ACTS, LATENTS = "gate.json", "acts.h5", "latents.h5"


def latents_of(inputs: Inputs, shop: Workshop, labels: Labels, labels_hash: str, progress: Progress) -> LatentAnalysis:
    """Return the mined latents of a labelled set, which know SAEs, labels and templates; make what is missing.

    Raises:
        EntityError: Too few known or unknown entities.
    """
    config = inputs.config
    about = {**inputs.model, "labels": labels_hash, "seed": config.seed}
    sizes = [config.gate_blocks, config.gate_entities, config.gate_questions, config.n_hook_points]
    gate = shop.shared("gate", {**about, "sizes": sizes}, lambda f: _propose(inputs, labels, f, progress))
    hook_points = [str(name) for name in read_json(gate / GATE)["hook_points"]]
    rows = {
        **about,
        "text": inputs.text_hash,
        "hook_points": hook_points,
        "rows": [config.n_rows, config.ctx_len, config.frac_entity_rows],
    }
    acts = shop.shared("activations", rows, lambda f: _cache(inputs, labels, hook_points, f, progress))
    sae_sizes = [config.sae_k, config.sae_expansion, config.sae_tokens, config.sae_batch_size]
    saes = []
    for name in hook_points:
        about_sae = {"activations": rows, "hook_point": name, "sizes": sae_sizes, "seed": config.seed}
        folder = shop.shared("sae", about_sae, lambda f, at=name: _train(inputs, acts / ACTS, at, f, progress))
        saes.append(Sae.load(folder / name, device=str(inputs.lm.device)))
    mined = {**rows, "saes": [sae_hash(s) for s in saes], "max_general_rate": config.max_general_rate, "sizes": sizes}
    place = shop.shared("latents", mined, lambda f: _mine(inputs, labels, acts / ACTS, saes, f, progress)) / LATENTS
    note(f"the latents can be looked at while the rest runs: {place.with_suffix('.html')}", is_news=True)
    analysis = load_analysis(place)
    return _with_sources(analysis, saes, labels)


def _with_sources(analysis: LatentAnalysis, saes: list[Sae], labels: Labels) -> LatentAnalysis:
    """Return an analysis that knows what it was made from."""
    return replace(analysis, sources=Sources(saes, labels, labels.templates))


def gate_config(inputs: Inputs, *, n_blocks: int) -> GateConfig:
    """Return how a gate asks, at a number of blocks without SAE."""
    config = inputs.config
    return GateConfig(
        n_entities=config.gate_entities, n_questions=config.gate_questions, n_blocks=n_blocks, seed=config.seed
    )


def _propose(inputs: Inputs, labels: Labels, folder: Path, progress: Progress) -> None:
    """Find the blocks where the knowledge passes at the name, and choose hook points among them."""
    config = gate_config(inputs, n_blocks=min(inputs.config.gate_blocks, inputs.lm.n_blocks))
    questions = config.n_entities * config.n_questions * (2 * config.n_blocks + 1)
    with progress("the quick gate", questions, unit="questions") as advance:
        blocks = sweep_blocks(inputs.lm, labels, inputs.templates, config, advance=advance)
    if all(b.reasons for b in blocks):
        note(f"the quick gate is passed nowhere, SAEs are spread over all blocks: {'; '.join(blocks[0].reasons)}")
    rows = [
        {"hook_point": b.hook_point, "recall": b.interval("clean").value, "passing": b.passing.value} for b in blocks
    ]
    hook_points = propose_hook_points(blocks, inputs.config.n_hook_points)
    write_json(folder / GATE, {"hook_points": hook_points, "blocks": rows})


def _cache(inputs: Inputs, labels: Labels, hook_points: Sequence[str], folder: Path, progress: Progress) -> None:
    """Cache activations of the text, last name tokens of known and unknown entities mixed in."""
    if (folder / ACTS).is_file():
        return
    config, labelled = inputs.config, [e for e in labels if e.label in ("known", "unknown")]
    cache_activations(
        inputs.lm,
        Corpus(inputs.text_name, inputs.documents),
        hook_points,
        out=folder / ACTS,
        entity_documents=entity_documents(labelled, inputs.templates, seed=config.seed),
        frac_entity_rows=config.frac_entity_rows,
        max_tokens=config.n_rows,
        ctx_len=min(config.ctx_len, inputs.lm.max_positions),
        seed=config.seed,
        resume=True,
        progress=progress,
    )


def _train(inputs: Inputs, store: Path, hook_point: str, folder: Path, progress: Progress) -> None:
    """Train one SAE and write its page."""
    config, out = inputs.config, folder / hook_point  # an SAE is called after its folder
    if not is_finished(out):
        with ActivationStore(store) as opened:
            train_sae(
                opened,
                hook_point,
                out=out,
                k=config.sae_k,
                expansion=config.sae_expansion,
                tokens=config.sae_tokens,
                batch_size=config.sae_batch_size,
                seed=config.seed,
                device=str(inputs.lm.device),
                resume=True,
                progress=progress,
            )
    write_training_page(out)


def _mine(inputs: Inputs, labels: Labels, store: Path, saes: Sequence[Sae], folder: Path, progress: Progress) -> None:
    """Find the latents that tell known from unknown entities, and run the gate at every SAE."""
    with ActivationStore(store) as opened:
        find_entity_latents(
            inputs.lm,
            saes,
            labels,
            store=opened,
            max_general_rate=inputs.config.max_general_rate,
            gate=gate_config(inputs, n_blocks=0),
            seed=inputs.config.seed,
            out=folder / LATENTS,
            overwrite=True,
            progress=progress,
        )
