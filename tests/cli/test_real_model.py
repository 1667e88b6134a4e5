"""The same commands on a published language model: WB_REAL_MODEL names a .gguf file of SmolLM2-135M-Instruct."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from cli.main import main
from features.entities.entities import Entity, load_entities
from features.entities.prompts import render
from sae_train.lm.generate import greedy_answers
from sae_train.lm.hooks import capture
from sae_train.lm.models import load_lm, save_lm

MODEL = os.environ.get("WB_REAL_MODEL", "")
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not MODEL, reason="WB_REAL_MODEL names no .gguf file"),
]
TEMPLATES = {
    "city": {
        "mention": ["The city of {name}"],
        "country": {
            "ask": [
                "The city of {name} is located in the country of",
                "People who live in {name} live in the country of",
            ],
            "heldout": ["The country in which {name} lies is"],
        },
    }
}


@pytest.fixture(scope="module")
def real_lm():
    return load_lm(MODEL, device="cpu")


def test_it_knows_a_city_and_hooks_see_its_hidden_states(real_lm):
    prompt = render("The city of {name} is located in the country of", Entity("Nairobi", "city"))
    assert "Kenya" in greedy_answers(real_lm, [prompt.text], max_new_tokens=4)[0]
    ids = torch.tensor([real_lm.tokenizer(prompt.text)["input_ids"]])
    hidden = real_lm.model(ids, output_hidden_states=True).hidden_states
    found = capture(real_lm, ids, torch.ones_like(ids), ["layers.3", "layers.9"])
    assert torch.equal(found["layers.3"], hidden[4])
    assert torch.equal(found["layers.9"], hidden[10])


def test_a_dequantised_model_is_saved_as_a_folder_that_loads_the_same(real_lm, tmp_path):
    save_lm(real_lm, tmp_path / "folder")
    again = load_lm(str(tmp_path / "folder"), device="cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(again.model(ids).logits, real_lm.model(ids).logits)


def test_commands_from_text_to_labels(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"Note {i}: rivers run to the sea, and roads to town." for i in range(60))
    )
    (tmp_path / "templates.json").write_text(json.dumps(TEMPLATES))
    cities = [("Nairobi", "Kenya"), ("Tokyo", "Japan"), ("Qopzarelt", "Peru")]
    lines = [json.dumps({"name": n, "type": "city", "facts": {"country": c}}) for n, c in cities]
    (tmp_path / "cities.jsonl").write_text("\n".join(lines))
    acts, labels = tmp_path / "acts.h5", tmp_path / "labels.jsonl"
    cache = ["cache-activations", "--model", MODEL, "--text", tmp_path / "text.txt", "--out", acts, "--json"]
    assert main([*map(str, cache), "--hook-point", "layers.6", "--hook-point", "layers.9.mlp"]) == 0
    assert json.loads(capsys.readouterr().out)["n_rows"] > 500
    train = ["train-sae", "--activations", acts, "--hook-point", "layers.6", "--d-sae", 256, "--k", 16]
    assert main([*map(str, train), "--batch-size", "128", "--out", str(tmp_path / "sae"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fvu"] < 1
    asked = ["--entities", tmp_path / "cities.jsonl", "--templates", tmp_path / "templates.json", "--out", labels]
    assert main(["label-entities", "--model", MODEL, *map(str, asked)]) == 0
    found = {e.name: e.label for e in load_entities(Path(labels), need_labels=True)}
    assert found["Tokyo"] == "known"
    assert found["Qopzarelt"] == "unknown"
