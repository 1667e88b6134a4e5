"""Fixtures on a corner of the shipped fact world: labels, store, SAE, latents, tasks. Registered by conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest

WORLD_ATTRIBUTES = {"person": ("birthplace", "job"), "city": ("country", "river")}


@pytest.fixture(scope="session")
def world_lm():
    """The shipped fact world's language model. Never train it: `load_lm` the folder again for that."""
    import torch

    from features.factworld import shipped_world
    from sae_train.lm.models import load_lm

    torch.set_num_threads(1)
    return load_lm(str(shipped_world()), device="cpu")


@pytest.fixture(scope="session")
def world_entities():
    """People and cities of the shipped world, two attributes each: per type 24 with facts, 20 never seen."""
    from dataclasses import replace

    from features.entities.entities import load_entities
    from features.factworld import shipped_world

    chosen = []
    for kind, attributes in WORLD_ATTRIBUTES.items():
        members = [e for e in load_entities(shipped_world() / "entities.jsonl") if e.type == kind]
        for seen, count in (("facts", 24), ("never", 20)):
            chosen += [
                replace(e, facts={a: e.facts[a] for a in e.facts if a in attributes})
                for e in [m for m in members if m.seen == seen][:count]
            ]
    return chosen


@pytest.fixture(scope="session")
def world_templates():
    """Three mentions, three questions and two held-out wordings per attribute of `world_entities`."""
    from features.entities.templates import Templates, load_templates
    from features.factworld import shipped_world

    whole = load_templates(shipped_world() / "templates.json")
    return Templates(
        mention={k: whole.mention[k][:3] for k in WORLD_ATTRIBUTES},
        ask={k: {a: whole.ask[k][a][:3] for a in names} for k, names in WORLD_ATTRIBUTES.items()},
        heldout={k: {a: whole.heldout[k][a][:2] for a in names} for k, names in WORLD_ATTRIBUTES.items()},
    )


@pytest.fixture(scope="session")
def world_labels(world_lm, world_entities, world_templates):
    """`world_entities` labelled by the model's own answers."""
    from features.labels.knowledge import KnowledgeRule, ask_and_label

    return ask_and_label(world_lm, world_entities, world_templates, KnowledgeRule())


@pytest.fixture(scope="session")
def world_documents():
    """1,500 documents about the shipped world's entities, in the shares of its corpus."""
    from features.factworld.corpus import world_corpus
    from sae_train.text.tokens import Document

    return [Document(d.text) for d in world_corpus(0, n_documents=1500)]


@pytest.fixture(scope="session")
def world_store(tmp_path_factory: pytest.TempPathFactory, world_lm, world_entities, world_templates, world_documents):
    """Path of an activation store of `layers.2`: 6,000 rows, a tenth of them last name tokens."""
    from features.entities.prompts import entity_documents
    from sae_train.activations.writing.writer import write_store
    from sae_train.config import CacheConfig
    from sae_train.text.windows import plan_windows

    plan = plan_windows(
        world_documents,
        world_lm.tokenizer,
        ctx_len=64,
        max_rows=6_000,
        entity_documents=entity_documents(world_entities, world_templates, seed=0),
        frac_entity_rows=0.1,
    )
    path = tmp_path_factory.mktemp("world") / "acts.h5"
    config = CacheConfig(hook_points=("layers.2",), ctx_len=64, batch_size=128, dtype="float32", frac_entity_rows=0.1)
    write_store(world_lm, plan, config, path, provenance={"model": "fact-world", "text": "corpus"})
    return path


@pytest.fixture(scope="session")
def world_sae(world_store: Path):
    """A small TopK SAE at `layers.2`, trained for a second or two."""
    from sae_train.activations.store import ActivationStore
    from sae_train.config import SaeTrainConfig
    from sae_train.saes.interop import load_sae
    from sae_train.training.jobs import train_one

    folder = world_store.parent / "sae"
    config = SaeTrainConfig("layers.2", k=8, expansion=2, tokens=80_000, batch_size=512, lr=2e-3, frac_holdout=0.1)
    with ActivationStore(world_store) as store:
        train_one(store, config, folder, device="cpu")
    return load_sae(folder)


@pytest.fixture(scope="session")
def world_analysis(world_lm, world_sae, world_store: Path, world_labels, world_templates):
    """What `find_entity_latents` finds with `world_sae`; no rule on running text, which is about names only here."""
    from features import find_entity_latents
    from sae_train.run.progress import silent

    made = {"templates": world_templates, "store": world_store, "gate": None, "progress": silent}
    return find_entity_latents(world_lm, world_sae, world_labels, max_general_rate=1.0, **made)


@pytest.fixture(scope="session")
def world_targets(world_labels) -> list[str]:
    """Keys of six known entities of the shipped world, three of either type."""
    chosen = []
    for kind in WORLD_ATTRIBUTES:
        chosen += [e.key for e in world_labels if e.type == kind and e.label == "known"][:3]
    return chosen


@pytest.fixture(scope="session")
def world_sets(world_lm, world_labels, world_templates, world_analysis, world_targets):
    """Who is forgotten, retained and held out when the targets are to go."""
    from unlearn.problem.data import split_sets

    return split_sets(world_lm, world_labels, world_templates, world_analysis, world_targets, frac_retain=0.75, seed=0)


@pytest.fixture(scope="session")
def world_text(world_lm, world_sets, world_documents):
    """Windows of general text that name no target."""
    from unlearn.problem.data import text_windows, without_targets

    documents = without_targets(world_documents, world_sets.forget)
    return text_windows(world_lm.tokenizer, documents, ctx_len=64, max_tokens=2000)


@pytest.fixture
def world_problem(world_lm, world_sae, world_analysis, world_templates, world_sets, world_text):
    """Return a function that builds a small unlearning task on a fresh copy of the shipped model."""
    import copy
    from dataclasses import replace

    from unlearn.config import configure
    from unlearn.finetuning.finetune import trainable_parameters
    from unlearn.problem.problem import Problem

    def build(**settings):
        lm = replace(world_lm, model=copy.deepcopy(world_lm.model))
        config = configure(**{"steps": 6, "batch_size": 8, "warmup_steps": 2, **settings})
        latents = world_analysis.hook_points[0]
        base = copy.deepcopy(world_lm.model)
        for parameter in trainable_parameters(lm.model, config.train).values():
            parameter.requires_grad_(True)
        return Problem(lm, base, base, world_sets, world_templates, world_sae, latents, world_text, config)

    return build


@pytest.fixture(scope="session")
def whole_loss():
    """Return a function that computes one step's loss, its parts one after the other, and all its terms."""
    from unlearn.finetuning.finetune import LossTerms

    def whole(objective, step: int) -> LossTerms:
        found = [part() for part in objective.parts(step)]
        return LossTerms(sum(f.loss for f in found), {name: value for f in found for name, value in f.terms.items()})

    return whole


# ------------------------------------------------------------------------------ a store without a language model
@pytest.fixture
def make_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes a complete activation store of given float32 rows at `layers.0`.

    Without `doc_id` every ten rows are a document. `chunk_rows` makes chunks small, so that a tiny store has many.
    `also` has the same rows at other hook points.
    """
    import numpy as np

    from sae_train.activations import layout
    from sae_train.storage import h5

    def build(acts, doc_id=None, *, chunk_rows: int = 16, name: str = "acts.h5", also=None, **fields) -> Path:
        n_rows, d_in = acts.shape
        places = {"layers.0": acts, **(also or {})}
        path = tmp_path / name
        documents = np.arange(n_rows) // 10 if doc_id is None else np.asarray(doc_id)
        rows = {"token_id": np.arange(n_rows), "doc_id": documents, "position": np.arange(n_rows), **fields}
        rows = {k: np.asarray(v).astype(np.int32) for k, v in rows.items()}
        rows.setdefault("from_entity", np.zeros(n_rows, np.uint8))
        attrs = {"model": "none", "hook_points": list(places), "dtype": "float32", "n_rows": n_rows, "complete": False}
        with monkeypatch.context() as patch:
            patch.setattr(h5, "CHUNK_BYTES", chunk_rows * d_in * 4)
            with h5.create(path, layout.SCHEMA, layout.VERSION, {**attrs, "rows_committed": 0}) as file:
                layout.write_row_fields(file, lambda field: [rows[field]], n_rows)
                layout.allocate_acts(file, tuple(places), n_rows, d_in, "float32")
                writer = layout.RowWriter(file, tuple(places), "float32")
                writer.add(places)
                writer.commit(is_last=True)
                layout.finish(file)
        return path

    return build
