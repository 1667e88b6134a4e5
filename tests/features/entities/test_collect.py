"""Activations at names; the contexts in which they are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from features.entities.collect import name_activations, token_rows
from features.entities.entities import Entity
from features.entities.name_tokens import encode, name_spans
from features.entities.prompts import contexts, render
from features.entities.templates import Templates
from sae_train.lm.hooks import capture

NAMES = ("Halle (Saale)", "São Tomé", "東京")
FRAMES = ("{name}", "The city of {name}", "About {name}, we read")


@pytest.fixture(scope="module")
def toy_lm(tiny_llama_dir):
    from sae_train.lm.models import load_lm

    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.mark.parametrize("position", ["first", "last", "all", "end"])
def test_activations_are_those_at_the_chosen_tokens(toy_lm, position):
    prompts = [render(f, Entity(n, "city")) for n in NAMES for f in FRAMES]
    found = token_rows(toy_lm, prompts, ["layers.0", "layers.1"], position=position, batch_size=2)
    ids = [read.ids for read in encode(toy_lm, prompts)]
    where = [list(span) for span in name_spans(toy_lm, prompts, position)]
    assert found.prompt.tolist() == [i for i, w in enumerate(where) for _ in w]
    assert found.position.tolist() == [t for w in where for t in w]
    for index, tokens in enumerate(ids):
        whole = capture(toy_lm, torch.tensor([tokens]), None, ["layers.0", "layers.1"])
        mine = np.flatnonzero(found.prompt == index)
        for name, acts in whole.items():
            torch.testing.assert_close(found.acts[name][mine], acts[0, where[index]], rtol=1e-4, atol=1e-4)
    alone = name_activations(toy_lm, prompts, ["layers.1"], position=position)
    torch.testing.assert_close(alone["layers.1"], found.acts["layers.1"], rtol=1e-4, atol=1e-4)


def test_each_entity_stands_once_in_each_context():
    templates = Templates(
        mention={"city": ["{name}", "The city of {name}"]},
        ask={"city": {"country": ["{name} lies in", "The city of {name} lies in"]}},
        heldout={"city": {"country": ["In {name}"]}},
    )
    entity = Entity("Velmora", "city", {"country": ["Ardane"]})
    assert [p.text for p in contexts(entity, templates)] == ["Velmora", "The city of Velmora"]
    behind = [p.text for p in contexts(entity, templates, whole=True)]
    assert behind == ["Velmora", "The city of Velmora", "Velmora lies in", "The city of Velmora lies in"]
    assert [p.text for p in contexts(entity, templates, heldout=True, whole=True)] == ["In Velmora"]
