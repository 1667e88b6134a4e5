"""`unlearn`, `audit` and `Ledger` from Python: objects or paths, nothing left on disk without `out`."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import replace

import pytest

import unlearn as floor
from sae_train.errors import ConfigError, EntityError, OutputExistsError
from sae_train.lm.models import load_lm, weights_hash
from sae_train.run.progress import silent
from unlearn import Ledger, Unlearned, audit, unlearn
from unlearn.config import AuditConfig, UnlearnConfig, configure
from unlearn.removals.record import RemovalRecord

QUICK = {"text": (), "method": "idk", "steps": 3, "batch_size": 4, "warmup_steps": 1, "lr": 2e-3}
CHEAP = {
    "skip": ("relearn", "same-form", "finetune", "quantize", "prune", "prompts"),
    "n_samples": 0,
    "control_draws": 2,
}


@pytest.fixture
def known(world_sae, world_labels, world_templates):
    """What mined latents of a file do not know."""
    return {"sae": world_sae, "labels": world_labels, "templates": world_templates, "progress": silent}


def test_every_exported_name_is_there():
    for name in floor.__all__:
        assert getattr(floor, name) is not None
    assert set(floor.__all__) <= set(dir(floor))
    with pytest.raises(AttributeError):
        _ = floor.nothing_of_that_name


def test_importing_the_floor_imports_nothing_heavy():
    code = "import sys, unlearn; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_model_that_comes_in_stays_as_it_is_and_nothing_is_written(
    world_lm, world_analysis, world_targets, known, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = weights_hash(world_lm.model)
    forgotten = unlearn(world_lm, world_analysis, forget=world_targets[0], **known, **QUICK)
    assert isinstance(forgotten, Unlearned) and forgotten.folder is None
    assert weights_hash(world_lm.model) == before
    assert weights_hash(forgotten.lm.model) == forgotten.record.values["model_hash"] != before
    assert list(forgotten.record.removed) == [world_targets[0]]
    assert [p for p in os.listdir(tmp_path) if not p.startswith("sae-workbench-")] == []
    assert "idk" in forgotten._repr_html_()


def test_saved_later_is_what_out_writes(world_lm, world_analysis, world_targets, known, tmp_path):
    one = unlearn(world_lm, world_analysis, forget=world_targets[:1], out=tmp_path / "one", **known, **QUICK)
    two = unlearn(world_lm, world_analysis, forget=world_targets[:1], **known, **QUICK)
    two.save(tmp_path / "two")
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(tmp_path / "two"))
    assert not (tmp_path / "one.run").exists()
    loaded = [load_lm(str(tmp_path / n), device="cpu") for n in ("one", "two")]
    assert weights_hash(loaded[0].model) == weights_hash(loaded[1].model) == weights_hash(one.lm.model)
    assert RemovalRecord.read(tmp_path / "one").values["result"]["model"] == str(tmp_path / "one")
    with pytest.raises(OutputExistsError):
        two.save(tmp_path / "one")
    one.save(tmp_path / "three")
    assert sorted(os.listdir(tmp_path / "three")) == sorted(os.listdir(tmp_path / "one"))


def test_a_second_removal_goes_on_from_the_first_in_memory(world_lm, world_analysis, world_targets, known):
    first = unlearn(world_lm, world_analysis, forget=world_targets[:1], **known, **QUICK)
    second = unlearn(first, world_analysis, forget=world_targets[1:2], original=world_lm, **known, **QUICK)
    assert list(second.record.removed) == world_targets[:2]
    assert [link["forget"] for link in second.record.chain] == [[t] for t in world_targets[:2]]


def test_an_adapter_in_memory_is_saved_as_one(world_lm, world_analysis, world_targets, known, tmp_path):
    settings = {**QUICK, "train": "lora", "lr": 1e-2}
    forgotten = unlearn(world_lm, world_analysis, forget=world_targets[:1], **known, **settings)
    forgotten.save(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert weights_hash(load_lm(str(tmp_path / "adapter"), device="cpu").model) == weights_hash(forgotten.lm.model)


def test_what_is_missing_or_wrong_is_said_before_a_model_is_loaded(world_analysis, world_targets, known):
    words = {"lm": "no/such-model", "latents": world_analysis}
    with pytest.raises(EntityError):
        unlearn(**words, forget="Nobody of that name", **known)
    with pytest.raises(ConfigError, match="nothing to forget"):
        unlearn(**words, forget=[], **known)
    with pytest.raises(ConfigError, match="stepz"):
        unlearn(**words, forget=world_targets, stepz=3, **known)
    with pytest.raises(ConfigError, match="exclude"):
        unlearn(**words, forget=world_targets, config=configure(), steps=3, **known)
    with pytest.raises(ConfigError, match="latents") as caught:
        unlearn("no/such-model", None, forget=world_targets, **known)
    assert caught.value.field == "latents"
    with pytest.raises(ConfigError, match="RmuSettings") as caught:
        unlearn(**words, forget=world_targets, config=UnlearnConfig(method="rmu"), **known)
    assert caught.value.field == "settings"
    with pytest.raises(ConfigError, match="seed"):
        unlearn(**words, forget=world_targets, seed=-1, **known)
    with pytest.raises(ConfigError, match="labels"):
        unlearn("x", replace(world_analysis, sources=None), forget=world_targets, templates=known["templates"])


def test_text_has_to_be_given_before_a_model_is_loaded(world_analysis, world_targets, known, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    for text, said in ((None, "None"), (tmp_path / "empty.txt", "no document in")):
        with pytest.raises(ConfigError, match="no general text") as refused:
            unlearn("no/such-model", world_analysis, forget=world_targets[:1], text=text, **known)
        assert (
            refused.value.field == "text" and said in str(refused.value.got) and "none" in str(refused.value.expected)
        )


@pytest.mark.parametrize("text", ["none", [], ()], ids=repr)
def test_who_wants_no_text_retained_says_so_and_is_told(world_lm, world_analysis, world_targets, known, caplog, text):
    settings = {**QUICK, "steps": 1, "text": text}
    found = unlearn(world_lm, world_analysis, forget=world_targets[:1], **known, **settings)
    assert "general text is not retained" in caplog.text and found.record.values["inputs"]["n_text_windows"] == 0


def test_text_of_which_nothing_is_left_is_no_text(world_lm, world_analysis, world_targets, known):
    name = world_targets[0].split(":", 1)[1]
    with pytest.raises(ConfigError, match="no general text is left") as refused:
        unlearn(
            world_lm, world_analysis, forget=world_targets[:1], **known, **{**QUICK, "text": [f"{name} was there."]}
        )
    assert refused.value.field == "text"


@pytest.mark.slow
def test_an_audit_of_objects(world_lm, world_analysis, world_targets, world_documents, known, tmp_path):
    forgotten = unlearn(
        world_lm, world_analysis, forget=world_targets, **known, **{**QUICK, "text": world_documents[:20]}
    )
    words = {"forget": world_targets, "text": [d.text for d in world_documents[20:60]], **known, **CHEAP}
    report = audit(world_lm, forgotten, world_analysis, **words, out=tmp_path / "audit")
    assert report.verdict in ("fail", "inconclusive")
    assert 0 <= report.forget.recall.after.value < report.forget.recall.before.value
    assert report.request.hook_point == forgotten.hook_point
    assert report.request.method == "idk"
    assert sorted(os.listdir(tmp_path / "audit")) == ["audit.html", "audit.json"]
    assert "recall" in report._repr_html_()
    assert len(report.table()) > 3


def test_ledger_from_python(world_lm, world_analysis, world_targets, known, tmp_path):
    unlearn(world_lm, world_analysis, forget=world_targets[:1], out=tmp_path / "one", **known, **QUICK)
    ledger = Ledger(tmp_path / "removals.jsonl")
    entry = ledger.add(tmp_path / "one")
    assert ledger.verify(head=entry.hash) == [] and ledger.newest_model() == str(tmp_path / "one")


def test_defaults_are_those_of_the_command_line():
    assert configure() == UnlearnConfig()
    for function, config in ((unlearn, UnlearnConfig), (audit, AuditConfig)):
        own = {n for n, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
        assert not own & set(config.__dataclass_fields__) - {"hook_point"}, "a setting has one default, its field's"
