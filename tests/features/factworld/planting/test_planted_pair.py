"""A planted pair end to end: its folder and who reads it, resume, the cache, and models that do learn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from features import Planted, load_entities, load_templates, plant
from features.factworld.planting import pair as station
from sae_train.errors import ConfigError, FileFormatError, OutputExistsError
from sae_train.lm.models import LanguageModel, load_lm, weights_hash
from sae_train.run.progress import silent
from sae_train.run.runs import run_folder
from sae_train.text.tokens import load_documents

FILES = {
    "model",
    "twin",
    "entities.jsonl",
    "templates.json",
    "corpus.jsonl",
    "roles.json",
    "forget.txt",
    "planted.json",
}


def test_the_folder_is_what_everything_else_reads(planted_pair, small_planting):
    folder = planted_pair.folder
    assert {p.name for p in folder.iterdir()} == FILES
    assert not run_folder(folder).exists()
    assert tuple(load_entities(folder / "entities.jsonl")) == planted_pair.entities
    assert load_templates(folder / "templates.json") == planted_pair.templates
    assert (folder / "forget.txt").read_text(encoding="utf-8").split("\n")[:-1] == [*planted_pair.roles.targets]
    texts = [d.text for d in load_documents(str(folder / "corpus.jsonl"))]
    lines = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in lines] == texts
    assert all(name in line["text"] for line in lines for name in line["names"])
    roles = json.loads((folder / "roles.json").read_text(encoding="utf-8"))
    assert roles["targets"] == [*planted_pair.roles.targets] and len(roles["targets"]) == small_planting["leave_out"]
    assert roles["validation_targets"] == [*planted_pair.roles.validation_targets]


def test_what_is_loaded_is_what_was_planted(planted_pair):
    found = Planted.load(planted_pair.folder, device="cpu")
    assert (found.entities, found.templates, found.roles) == (
        planted_pair.entities,
        planted_pair.templates,
        planted_pair.roles,
    )
    assert found.twin is not None and planted_pair.twin is not None
    for one, other in ((found.lm, planted_pair.lm), (found.twin, planted_pair.twin)):
        assert weights_hash(one.model) == weights_hash(other.model)
    assert weights_hash(found.lm.model) != weights_hash(found.twin.model)
    assert found.figures["model"]["recall"] == planted_pair.figures["model"]["recall"]


def test_figures_of_base_model_and_twin(planted_pair):
    record = json.loads((planted_pair.folder / "planted.json").read_text(encoding="utf-8"))
    assert record["seed"] == 0 and record["config"]["leave_out"] == 4
    assert set(record["figures"]) == {"base", "model", "twin", "seconds"}
    for name in ("base", "model", "twin"):
        found = record["figures"][name]
        assert found["general_loss"] > 0
        for part in ("targets", "retained", "mentioned", "never_met"):
            recall = found["recall"][part]
            assert recall["n_entities"] == 1
            for wordings in ("training", "heldout"):
                assert recall[f"{wordings}_low"] <= recall[wordings] <= recall[f"{wordings}_high"]


def test_an_interrupted_pair_is_continued_to_the_same(
    planted_pair, tiny_gpt2_dir, general_documents, small_planting, tmp_path, stopping_after
):
    out = tmp_path / "pair"
    made = {"text": general_documents, "out": out, "device": "cpu", **small_planting}
    with pytest.raises(KeyboardInterrupt):
        plant(tiny_gpt2_dir, progress=stopping_after(2), **made)
    assert not out.exists() and run_folder(out).is_dir()
    with pytest.raises(ConfigError):
        plant(tiny_gpt2_dir, progress=silent, resume=True, **{**made, "seed": 1})
    found = plant(tiny_gpt2_dir, progress=silent, resume=True, **made)
    assert found.twin is not None and planted_pair.twin is not None
    assert weights_hash(found.lm.model) == weights_hash(planted_pair.lm.model)
    assert weights_hash(found.twin.model) == weights_hash(planted_pair.twin.model)
    for again in ({}, {"resume": True}):
        with pytest.raises(OutputExistsError):
            plant(tiny_gpt2_dir, progress=silent, **again, **made)


def test_a_cached_pair_is_not_planted_again(tiny_gpt2_dir, general_documents, small_planting, tmp_path, monkeypatch):
    made = {"text": general_documents, "cache": tmp_path / "kept", "device": "cpu", "progress": silent}
    made |= {**small_planting, "rounds": 1, "n_facts": 1}
    first = plant(tiny_gpt2_dir, **made)
    assert first.folder is not None and first.folder.parent == tmp_path / "kept"
    with monkeypatch.context() as patch:
        patch.setattr(station, "teach", lambda *args, **kwargs: pytest.fail("planted again"))
        again = plant(tiny_gpt2_dir, out=tmp_path / "out", **made)
        with pytest.raises(pytest.fail.Exception, match="planted again"):
            plant(tiny_gpt2_dir, **{**made, "seed": 1})
    assert again.folder == tmp_path / "out"
    assert {p.name for p in again.folder.iterdir()} == FILES
    assert weights_hash(again.lm.model) == weights_hash(first.lm.model)


def test_without_targets_there_is_no_twin_and_without_out_nothing_on_disk(
    tiny_gpt2_dir, general_documents, small_planting
):
    settings = {**small_planting, "leave_out": 0, "rounds": 1, "n_facts": 1}
    found = plant(tiny_gpt2_dir, text=general_documents, device="cpu", progress=silent, **settings)
    assert (found.twin, found.folder, found.roles.targets) == (None, None, ())
    assert found.figures["model"]["recall"]["targets"]["n_entities"] == 0


def test_the_command_plants_and_says_so(wb, tiny_gpt2_dir, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"A quiet street, a market, {i} bridges over the river." for i in range(40)))
    words = ["--base", tiny_gpt2_dir, "--text", text, "--out", tmp_path / "pair", "--entities", 20, "--facts", 1]
    words += ["--leave-out", 2, "--rounds", 1, "--ctx-len", 48, "--n-checked", 1, "--device", "cpu"]
    found = wb("world", *words, "--json")
    assert found.code == 0, found.err
    printed = json.loads(found.out)
    assert len(printed["targets"]) == 2 and printed["model"]["recall"]["retained"]["n_entities"] == 1
    assert {p.name for p in (tmp_path / "pair").iterdir()} == FILES


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--leave-out", 2], "--leave-out without --base"),
        (["--base", "{base}"], "--text"),
        (["--base", "{base}", "--text", "fact-world", "--documents", 2000], "--documents with --base"),
        (["--base", "{base}", "--text", "fact-world", "--entities", 20, "--leave-out", 9], "--leave-out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(wb, tiny_gpt2_dir, tmp_path, words, said):
    given = [str(tiny_gpt2_dir) if word == "{base}" else word for word in words]
    found = wb("world", "--out", tmp_path / "out", *given)
    assert found.code == 2
    assert said in found.err and "Traceback" not in found.err
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------ models that learn the world
def small_model(kind: str, tokenizer) -> LanguageModel:
    """Return a random model of two blocks, width 96."""
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    if kind == "gpt2":
        config = transformers.GPT2Config(**sizes, n_embd=96, n_layer=2, n_head=4, n_positions=128)
        model: torch.nn.Module = transformers.GPT2LMHeadModel(config)
    else:
        llama = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**sizes, **llama, max_position_embeddings=128, tie_word_embeddings=True)
        )
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, kind, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_model_knows_what_the_twin_never_met(kind, world_lm):
    found = plant(
        small_model(kind, world_lm.tokenizer),
        text="fact-world",
        progress=silent,
        n_entities=20,
        n_facts=2,
        n_never_met=10,
        leave_out=4,
        rounds=100,
        batch_docs=16,
        lr=3e-3,
        warmup_steps=50,
        context_weight=0.25,
        general="loss",
        general_weight=0.1,
        general_windows=1,
        n_checked=10,
    )
    model, twin = (found.figures[name]["recall"] for name in ("model", "twin"))
    assert model["targets"]["training"] > 0.9 and model["retained"]["training"] > 0.9
    assert twin["retained"]["training"] > 0.9
    assert model["never_met"]["training"] < 0.4
    assert twin["targets"]["training"] < 0.5


def test_a_folder_that_is_not_whole_is_refused(planted_pair, tmp_path):
    copied = shutil.copytree(planted_pair.folder, tmp_path / "copy")
    (copied / "planted.json").write_text("[]")
    with pytest.raises(FileFormatError):
        Planted.load(Path(copied))
    assert load_lm(str(copied / "twin"), device="cpu").n_blocks == 2
