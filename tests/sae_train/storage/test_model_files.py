"""A model comes back as it came: number format, processor and generation files."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_train.errors import DtypeError
from sae_train.lm.models import load_lm, round_to_stored, save_lm


@pytest.fixture
def half(tiny_llama_dir, tmp_path):
    """A folder in bfloat16 with one weight in float32 and the files that a processor reads."""
    folder = tmp_path / "half"
    shutil.copytree(tiny_llama_dir, folder)
    tensors = {k: v.half() for k, v in load_file(half / "model.safetensors").items()}
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
