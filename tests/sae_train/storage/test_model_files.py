"""A model comes back as it came: number format, processor and generation files."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_train.errors import DtypeError
from sae_train.lm.models import load_lm, round_to_stored, save_lm, weights_hash
from sae_train.storage.model_files import SIDE_FILES


@pytest.fixture
def half(tiny_llama_dir, tmp_path):
    """A folder in bfloat16 with one weight in float32 and the files that a processor reads."""
    folder = tmp_path / "half"
    shutil.copytree(tiny_llama_dir, folder)
    tensors = {k: v.bfloat16() for k, v in load_file(folder / "model.safetensors").items()}
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float() + 1e-4
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    for name in SIDE_FILES:
        (folder / name).write_text(json.dumps({"processor_class": name, "do_sample": False, "temperature": 0.6}))
    return folder


def test_a_model_is_saved_in_the_format_and_with_the_files_of_its_source(half, tmp_path):
    lm = load_lm(str(half), device="cpu")
    assert next(lm.model.parameters()).dtype == torch.float32
    save_lm(lm, tmp_path / "out")
    before, after = (load_file(f / "model.safetensors") for f in (half, tmp_path / "out"))
    assert {k: v.dtype for k, v in after.items()} == {k: v.dtype for k, v in before.items()}
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    for name in SIDE_FILES:
        assert (tmp_path / "out" / name).read_text() == (half / name).read_text(), name
    assert load_lm(str(tmp_path / "out"), device="cpu").stored.dtype == torch.bfloat16


def test_what_was_changed_is_rounded_so_that_the_hash_is_that_of_what_is_saved(half, tmp_path):
    lm = load_lm(str(half), device="cpu")
    with torch.no_grad():
        lm.model.model.layers[0].mlp.down_proj.weight.add_(0.0123456)
    whole = weights_hash(lm.model)
    round_to_stored(lm)
    assert weights_hash(lm.model) != whole
    save_lm(lm, tmp_path / "out")
    assert weights_hash(load_lm(str(tmp_path / "out"), device="cpu").model) == weights_hash(lm.model)


def test_a_weight_that_the_format_cannot_hold_is_refused(half):
    tensors = {
        k: v.half() if v.dtype == torch.bfloat16 else v for k, v in load_file(half / "model.safetensors").items()
    }
    save_file(tensors, half / "model.safetensors", metadata={"format": "pt"})
    lm = load_lm(str(half), device="cpu")
    with torch.no_grad():
        lm.model.model.layers[0].mlp.down_proj.weight[0, 0] = 70_000.0
    with pytest.raises(DtypeError, match="float16"):
        round_to_stored(lm)


def test_a_float32_model_stays_what_it_is(tiny_llama_dir, tmp_path):
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    save_lm(lm, tmp_path / "out")
    assert {v.dtype for v in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}
