"""A planted pair as removal benchmarks take it: labelled by the model's own answers, with an SAE and mined latents."""

from __future__ import annotations

from pathlib import Path

from benchmarks.unlearning.worlds import World
from features import Planted, find_entity_latents, label_entities, load_entities
from features.entities.prompts import entity_documents
from sae_train import cache_activations, train_sae
from sae_train.text.tokens import corpus_of

DEPTH = 1 / 3  # of the block whose residual stream the SAE reads
MAX_TOKENS = 60_000  # of general text whose activations the SAE sees
FRAC_NAMES = 0.1  # of the SAE's rows
K, EXPANSION, SAE_TOKENS = 32, 4, 300_000


def open_planted(pair: Planted, text: str, folder: Path, name: str) -> World:
    """Label the entities, train an SAE, mine latents; what lies in the folder is not made again.

    Args:
        pair: The pair; its model is what is labelled.
        text: General text, the one that planting read.
        folder: Where labels, SAE and latents lie.
        name: What results are kept under.
    """
    hook_point = f"layers.{round(DEPTH * pair.lm.n_blocks)}"
    folder.mkdir(parents=True, exist_ok=True)
    labels, store, sae, latents = (folder / n for n in ("labels.jsonl", "acts.h5", "sae", "latents.h5"))
    if not labels.exists():
        label_entities(pair.lm, pair.entities, templates=pair.templates, out=labels)
    if not sae.exists():
        names = entity_documents(pair.entities, pair.templates, seed=0)
        cached = {"max_tokens": MAX_TOKENS, "frac_entity_rows": FRAC_NAMES}
        cache_activations(pair.lm, text, hook_point, out=store, entity_documents=names, overwrite=True, **cached)
        train_sae(store, hook_point, out=sae, k=K, expansion=EXPANSION, tokens=SAE_TOKENS, overwrite=True)
    if not latents.exists():
        find_entity_latents(pair.lm, sae, labels, templates=pair.templates, store=store, gate=False, out=latents)
    documents = list(corpus_of(text))
    return World(
        name=name,
        lm=pair.lm,
        labels=load_entities(labels, need_labels=True),
        templates=pair.templates,
        latents=latents,
        sae_folders=(sae,),
        documents=documents,
        n_retained=len(documents),
        entities=pair.entities,
    )
