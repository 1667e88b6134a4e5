"""The stations of the first floor on a stand-in of a CUDA device (`fixtures_accelerator.py`): as on the CPU."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from features import browse, collect_names, find_entity_latents, label_entities
from features.config import GateConfig, SteeringConfig
from features.entities.prompts import entity_documents
from sae_train.activations.store import ActivationStore
from sae_train.activations.writing.writer import write_store
from sae_train.config import CacheConfig
from sae_train.lm.models import LanguageModel
from sae_train.run.progress import silent
from sae_train.text.windows import plan_windows

pytestmark = pytest.mark.slow
PLACES = ("layers.0", "layers.2")


@pytest.fixture
def few(world_entities):
    """Twenty people, half of them never seen."""
    people = [e for e in world_entities if e.type == "person"]
    return [e for seen in ("facts", "never") for e in [p for p in people if p.seen == seen][:10]]


@pytest.fixture
def labelled(few, world_templates):
    def station(lm: LanguageModel):
        asked = {"templates": world_templates, "progress": silent}
        return [list(label_entities(lm, few, **asked, **rule)) for rule in ({}, {"samples": 3})]

    return station


@pytest.fixture
def cached(few, world_templates, world_documents, tmp_path):
    def station(lm: LanguageModel):
        contexts = entity_documents(few, world_templates, seed=0)
        words = {"ctx_len": 32, "max_rows": 300, "entity_documents": contexts, "frac_entity_rows": 0.2}
        plan = plan_windows(world_documents[:60], lm.tokenizer, **words)
        config = CacheConfig(hook_points=PLACES, ctx_len=32, batch_size=8, dtype="float32", frac_entity_rows=0.2)
        path = tmp_path / f"{lm.device.type}.h5"
        write_store(lm, plan, config, path, provenance={"model": "fact-world", "text": "corpus"})
        with ActivationStore(path) as store:
            acts = {name: store.rows(name, slice(0, store.n_rows)) for name in PLACES}
            return {**acts, "from_entity": store.row_field("from_entity")}

    return station


@pytest.fixture
def named(world_labels, world_templates):
    def station(lm: LanguageModel):
        return collect_names(lm, world_labels, PLACES, templates=world_templates, progress=silent).acts

    return station


@pytest.fixture
def mined(world_labels, world_templates, world_sae, world_store):
    def station(lm: LanguageModel):
        checks = {"gate": GateConfig(n_entities=4, n_questions=1), "steering": SteeringConfig(n_windows=2)}
        made = {"templates": world_templates, "store": world_store, "progress": silent, "n_shuffles": 10}
        found = find_entity_latents(lm, _moved(world_sae, lm), world_labels, max_general_rate=1.0, **made, **checks)
        return replace(found, sources=None)

    return station


@pytest.fixture
def browsed(world_sae, world_store):
    def station(lm: LanguageModel):
        sae = _moved(world_sae, lm)
        found = browse(sae, world_store, lm=lm, other=sae, n_sampled=4, progress=silent)
        return {name: column.to_numpy() for name, column in found.table().items()}

    return station


def _moved(sae, lm: LanguageModel):
    """Return a copy of an SAE that lies where the model does."""
    moved = deepcopy(sae).to(lm.device)
    moved.hook_point, moved.folder = sae.hook_point, sae.folder
    return moved


@pytest.mark.parametrize("name", ["labelled", "cached", "named", "mined", "browsed"])
def test_a_station_gives_what_it_gives_on_the_cpu(name, world_lm, request):
    station = request.getfixturevalue(name)
    expected = station(world_lm)
    device = request.getfixturevalue("accelerator")
    found = station(device.moved(world_lm))
    device.agree(found, expected)
    assert device.waits  # it was there
