"""GGUF files are converted once, into a cache folder: found again by their bytes, cleared, and done without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sae_train.errors import FileFormatError
from sae_train.lm import models
from sae_train.lm.models import load_lm, load_tokenizer, weights_hash
from sae_train.storage import converted

torch.set_num_threads(1)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache folder of a test."""
    monkeypatch.setenv(converted.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch) -> list[Path]:
    """The files that are converted while a test runs."""
    done: list[Path] = []
    real = models._convert_gguf

    def counted(path: Path, folder: Path) -> None:
        done.append(path)
        real(path, folder)

    monkeypatch.setattr(models, "_convert_gguf", counted)
    return done


def test_a_file_is_converted_once_and_gives_the_same_model(gguf_file, cache, conversions, tmp_path):
    lm = load_lm(str(gguf_file), device="cpu")
    (entry,) = converted.entries()
    assert entry.source == str(gguf_file) and entry.n_bytes > 4 * sum(p.numel() for p in lm.model.parameters())
    copied = tmp_path / "copied.gguf"
    copied.write_bytes(gguf_file.read_bytes())
    tokenizer, again = load_tokenizer(str(gguf_file)), load_lm(str(gguf_file), device="cpu")
    assert conversions == [gguf_file]
    assert (tokenizer.get_vocab() == again.tokenizer.get_vocab()) and again.name == str(gguf_file)
    options = {"gguf_file": gguf_file.name, "local_files_only": True}
    plain = models.transformers.AutoModelForCausalLM.from_pretrained(str(gguf_file.parent), **options)
    assert weights_hash(lm.model) == weights_hash(again.model) == weights_hash(plain)
    theirs = models.transformers.AutoTokenizer.from_pretrained(str(gguf_file.parent), **options)
    text = "The cat sat on the mat, twice."
    assert theirs(text)["input_ids"] == again.tokenizer(text)["input_ids"]
    assert lm.stored is None and load_lm(str(gguf_file), device="cpu", dtype="bfloat16").stored is None


def test_another_file_of_the_same_name_is_converted_anew(gguf_file, cache, conversions, tmp_path):
    load_lm(str(gguf_file), device="cpu")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / gguf_file.name
    data = bytearray(gguf_file.read_bytes())
    data[-1] ^= 1  # in the last weight
    other.write_bytes(data)
    load_lm(str(other), device="cpu")
    assert conversions == [gguf_file, other] and len(converted.entries()) == 2


def test_clear_removes_what_was_converted_and_nothing_else(gguf_file, cache, wb):
    load_lm(str(gguf_file), device="cpu")
    (cache / "mine.txt").write_text("kept")
    (cache / "folder").mkdir()
    shown = json.loads(wb("cache", "show", "--json").out)
    assert shown["models"][0]["source"] == str(gguf_file) and shown["bytes"] > 0
    assert "tiny-v1-" in wb("cache", "show").out
    assert json.loads(wb("cache", "clear", "--json").out)["bytes"] == shown["bytes"]
    assert sorted(p.name for p in cache.iterdir()) == ["folder", "mine.txt"]
    assert json.loads(wb("cache", "clear", "--json").out)["bytes"] == 0


def test_where_nothing_can_be_kept_the_file_is_read_itself(gguf_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(converted.VARIABLE, str(tmp_path / "file" / "cache"))
    assert load_lm(str(gguf_file), device="cpu").n_blocks == 1


def test_a_damaged_file_is_refused_and_leaves_nothing(gguf_file, cache, tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(gguf_file.read_bytes()[:2000])
    with pytest.raises(FileFormatError):
        load_lm(str(damaged), device="cpu")
    assert not cache.exists() or not list(cache.iterdir())
