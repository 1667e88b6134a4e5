"""`wb doctor` on this machine, and its advice on others."""

from __future__ import annotations

import json

import pytest
import torch

from sae_train.machine import arithmetic
from sae_train.machine.doctor import slow_here

GFLOPS = {"float32": 30.0, "bfloat16": 0.6, "float16": 0.5}


def test_it_shows_what_is_here_and_leaves_nothing(wb, tmp_path):
    outcome = wb("doctor", "--folder", tmp_path, "--json")
    found = json.loads(outcome.out)
    assert outcome.code == 0 and not list(tmp_path.iterdir())
    assert found["versions"]["torch"] == torch.__version__ and found["n_cores"] >= 1
    assert set(found["gflops"]) == {"float32", "bfloat16", "float16"} and min(found["gflops"].values()) > 0
    assert found["memory_gib"] >= found["free_gib"] > 0 and found["read_mib_per_s"] > 0 and found["instructions"]
    text = wb("doctor").out
    assert "GFLOP/s" in text and "billions of parameters" in text


def test_a_folder_that_is_not_there_is_refused(wb, tmp_path):
    assert wb("doctor", "--folder", tmp_path / "none").code == 2


@pytest.mark.parametrize(("slowdown", "n_slow"), [(0.5, 0), (50.0, 2)])
def test_formats_that_are_too_slow_are_named(slowdown, n_slow, monkeypatch):
    monkeypatch.setattr(arithmetic, "product_seconds", lambda dtype: 1.0 if dtype == torch.float32 else slowdown)
    lines = slow_here(GFLOPS, {}, 16.0)
    assert sum("0.6 GFLOP/s" in line or "0.5 GFLOP/s" in line for line in lines) == n_slow


def test_without_an_accelerator_the_speed_of_a_model_is_told():
    lines = slow_here(GFLOPS, {}, 16.0)
    assert any("by one core, 111 tokens a second" in line for line in lines)  # 30e9 / (2 * 135e6)
    lines = slow_here(GFLOPS, {"cuda:0 (A)": 20 * 1e9 / 2**30}, 1.0)
    assert not any("tokens a second" in line for line in lines)
    assert "running 5.0, unlearning all weights 1.0" in lines[-1]
