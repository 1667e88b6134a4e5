"""Outputs: what an interrupted run left, a disk that fills up late, rights of files, folders whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from sae_train.errors import ConfigError, OutputExistsError, StoppedError
from sae_train.lm.models import load_lm, save_lm
from sae_train.run import runs
from sae_train.run.checkpoints import CHECKPOINT, load_checkpoint, save_checkpoint
from sae_train.run.outputs import claimed, whole_folder
from sae_train.run.resuming import check_unchanged
from sae_train.run.runs import write_text
from sae_train.run.tensor_files import write_tensors


@pytest.fixture(params=[0o022, 0o077, 0o027])
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}


def test_every_file_of_a_model_has_the_rights_of_any_new_file(tiny_llama_dir, tmp_path, umask):
    save_lm(load_lm(str(tiny_llama_dir), device="cpu"), tmp_path / "m")
    write_tensors(tmp_path / "m" / "more.safetensors", {"a": torch.ones(2)})
    found = modes(tmp_path / "m")
    assert {"model.safetensors", "more.safetensors", "config.json", "tokenizer.json"} <= found.keys()
    assert set(found.values()) == {0o666 & ~umask}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Can't decrement id ref count (file write failed: errno = 28, error message = 'No space …')"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_late_is_said_whoever_notices(tmp_path, error):
    with (
        pytest.raises(StoppedError, match=r"disk is full[\s\S]*resume"),
        claimed(tmp_path / "a", overwrite=False, resume=False),
    ):
        raise error


def test_other_errors_keep_their_kind(tmp_path):
    for error in (RuntimeError("mat1 and mat2"), OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()):
        with pytest.raises(type(error)), claimed(tmp_path / "a", overwrite=False):
            raise error


def test_a_folder_is_whole_or_not_there(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="full"), whole_folder(out, overwrite=False) as place:
        write_text(place / "run.json", "{}")
        raise OSError("full")
    assert not list(tmp_path.iterdir())
    out.mkdir()
    (tmp_path / "out.partial").mkdir()  # of a run that was killed
    (tmp_path / "out.partial" / "old").write_text("old")
    with whole_folder(out, overwrite=False) as place:
        write_text(place / "run.json", "{}")
    assert [p.name for p in out.iterdir()] == ["run.json"]
    with pytest.raises(OSError, match="full"), whole_folder(out, overwrite=True) as place:
        raise OSError("full")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "run.json"], "what was to be replaced is still there"


def test_a_text_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_names):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.os, "replace", full)
    with pytest.raises(OSError, match="space"):
        write_text(tmp_path / "a.json", "{}")
    assert not list(tmp_path.iterdir())


def test_what_an_interrupted_run_left_is_not_discarded_unasked(tmp_path):
    left = tmp_path / "a.partial"
    left.write_text("769 answers")
    how = {"leftovers": (left,)}
    with (
        pytest.raises(OutputExistsError, match=r"interrupted[\s\S]*resume[\s\S]*overwrite"),
        claimed(tmp_path / "a", overwrite=False, resume=False, **how),
    ):
        raise AssertionError("the work began")
    for flags in ({"overwrite": True, "resume": False}, {"overwrite": False, "resume": True}):
        with claimed(tmp_path / "a", **flags, **how):
            pass


def test_changed_settings_are_named_with_both_values(tmp_path):
    identity = {"config": '{"lr": 0.1, "k": 8, "long": "' + "x" * 400 + 'a"}', "store": '{"n_rows": 3}'}
    save_checkpoint(tmp_path, {"parameter.w": torch.ones(1)}, step=1, identity=identity)
    assert load_checkpoint(tmp_path, identity) is not None
    other = {"config": '{"lr": 0.2, "k": 8, "long": "' + "x" * 400 + 'b"}', "store": '{"n_rows": 4}'}
    with pytest.raises(ConfigError) as refused:
        load_checkpoint(tmp_path, other)
    error = refused.value
    assert "lr, long, store.n_rows have changed" in error.what
    assert error.got.startswith("lr 0.2, long …xx") and error.got.endswith("xb, store.n_rows 4")
    assert error.expected.startswith("lr 0.1, long …xx") and error.expected.endswith("xa, store.n_rows 3")


def test_of_long_lists_what_differs_is_named():
    names = [f"person:{i}" for i in range(100)]
    with pytest.raises(ConfigError) as refused:
        check_unchanged("run", {"forget": names}, {"forget": [*names[:-1], "person:Ada"]})
    assert refused.value.got == "forget 100 items, person:Ada"
    assert refused.value.expected == "forget 100 items, person:99"
    assert CHECKPOINT not in str(refused.value)
