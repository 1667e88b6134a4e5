"""Worlds go by their names: model, tokenizer, corpus, adapters on them; what a package has to do to offer one."""

from __future__ import annotations

import importlib.metadata
import itertools
import tomllib
from pathlib import Path

import pytest

from features.factworld import SHIPPED, shipped_world
from features.factworld.corpus import world_corpus
from sae_train.errors import FileFormatError, MissingFileError
from sae_train.lm.adapters import Base, attach_adapter, merge_adapter, save_adapter
from sae_train.lm.models import load_lm, load_tokenizer, weights_hash
from sae_train.text import worlds
from sae_train.text.tokens import load_documents
from sae_train.text.worlds import GROUP, find_world, install_hint, world_names
from unlearn.removals.record import RemovalRecord

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


def test_what_is_installed_is_what_the_project_offers():
    offered = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"][GROUP]
    installed = {e.name: e.value for e in importlib.metadata.entry_points(group=GROUP)}
    assert installed.items() >= offered.items() == {"fact-world": "features.factworld:SHIPPED"}.items(), (
        "pyproject.toml has changed since the package was installed: pip install --no-deps -e ."
    )
    assert find_world("fact-world") is SHIPPED
    assert "fact-world" in world_names()
    assert SHIPPED.entities.is_file() and SHIPPED.templates.is_file()


def test_the_model_of_a_world_goes_by_its_name(world_lm):
    lm = load_lm("fact-world", device="cpu")
    assert lm.name == "fact-world"
    assert weights_hash(lm.model) == weights_hash(world_lm.model)
    assert load_tokenizer("fact-world").get_vocab() == world_lm.tokenizer.get_vocab()


def test_an_adapter_on_a_world_finds_its_base(tmp_path):
    lm = load_lm("fact-world", device="cpu")
    base = Base("fact-world", weights_hash(lm.model))
    adapter = attach_adapter(lm.model, rank=2, alpha=4, seed=0)
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.01)
    save_adapter(adapter, lm.tokenizer, tmp_path / "adapter", base)
    merge_adapter(adapter)
    loaded = load_lm(str(tmp_path / "adapter"), device="cpu")
    assert loaded.name == str(tmp_path / "adapter")
    assert weights_hash(loaded.model) == weights_hash(lm.model) != base.weights_hash


def test_the_documents_of_a_world_are_its_corpus():
    found = list(itertools.islice(load_documents("fact-world"), 500))
    assert [d.text for d in found] == [d.text for d in world_corpus(0)[:500]]
    assert {d.keep_char_end for d in found} == {None}


def test_a_name_is_the_world_and_a_path_is_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fact-world").mkdir()
    (tmp_path / "fact-world" / "unlearning.json").write_text('{"config": {"method": "ga"}}')
    assert find_world("fact-world") is SHIPPED and find_world("./fact-world") is not SHIPPED
    assert load_lm("fact-world", device="cpu").name == "fact-world"
    assert RemovalRecord.read("fact-world").values == {} != RemovalRecord.read("./fact-world").values
    with pytest.raises(FileFormatError, match="no config.json"):
        load_lm("./fact-world", device="cpu")


def test_another_package_may_offer_a_world(tmp_path, monkeypatch):
    """A package with its own metadata on the path: its name stands for its model and its texts, beside ours."""
    info = tmp_path / "other_world-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-world\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nother-world = other_world_package:HERE\n")
    (tmp_path / "other_world_package.py").write_text(
        "from features.factworld import shipped_world\n"
        "from sae_train.text.worlds import World\n"
        "HERE = World(shipped_world(), lambda: ['one', 'two'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert world_names() == ["fact-world", "other-world"]
    assert [d.text for d in load_documents("other-world")] == ["one", "two"]
    assert load_lm("other-world", device="cpu").name == "other-world"


def test_without_metadata_it_is_said_that_the_package_is_to_be_installed(tmp_path, monkeypatch, wb):
    monkeypatch.setattr(worlds.importlib.metadata, "entry_points", lambda **_: ())
    monkeypatch.chdir(tmp_path)
    for load in (lambda: load_lm("fact-world"), lambda: load_documents("fact-world")):
        with pytest.raises(MissingFileError) as caught:
            load()
        assert "install the package" in str(caught.value.try_)
    assert install_hint("corpus.jsonl") is None and install_hint("a/b") is None, "no name of a world"
    asked = wb("label-entities", "--model", "x/y", "--entities", "fact-world", "--templates", "t.json", "--out", "o")
    assert asked.code == 2 and "install the package" in asked.err
    assert load_lm(str(shipped_world()), device="cpu").n_blocks == 4, "a path needs no metadata"


def test_a_name_that_is_no_world_is_told_those_that_are():
    with pytest.raises(MissingFileError) as caught:
        load_lm("fact-wrld")
    assert str(caught.value.expected).startswith("fact-world, a folder") and caught.value.try_ is None


def test_a_text_that_cannot_be_read_is_refused_at_once(tmp_path):
    """Before the first document is asked for: nothing else has been done by then."""
    (tmp_path / "bad.jsonl").write_text("no json\n")
    for source in (tmp_path / "missing.txt", tmp_path / "bad.jsonl"):
        with pytest.raises((MissingFileError, FileFormatError)):
            load_documents(str(source))
    (tmp_path / "good.txt").write_text("one\n\ntwo\n")
    assert [d.text for d in load_documents(str(tmp_path / "good.txt"))] == ["one", "two"], "the first is not lost"
