"""Number formats on processors with and without instructions for them; timings are made up: load decides nothing."""

from __future__ import annotations

import logging

import pytest
import torch

from features.factworld.train import TrainingConfig, _optimizers, new_model
from sae_train.lm.models import load_lm
from sae_train.machine import arithmetic
from sae_train.saes.topk_search import top_k

torch.set_num_threads(1)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes products in all formats but float32 take so many times as long."""

    def slower(times: float) -> None:
        monkeypatch.setattr(arithmetic, "product_seconds", lambda dtype: 1.0 if dtype == torch.float32 else times)

    arithmetic._note_slow.cache_clear()
    yield slower
    arithmetic._note_slow.cache_clear()


def test_a_product_is_timed():
    assert 0 < arithmetic.product_seconds(torch.float32) < 10
    assert arithmetic.is_fast(torch.float32, CPU)


@pytest.mark.parametrize(("times", "expected"), [(0.5, torch.bfloat16), (3.0, torch.bfloat16), (40.0, torch.float32)])
def test_what_is_too_slow_is_computed_in_float32(times, expected, machine):
    machine(times)
    assert arithmetic.usable(torch.bfloat16, CPU) == expected
    assert arithmetic.usable(torch.bfloat16, CUDA) == torch.bfloat16
    with arithmetic.autocast(CPU, enabled=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    with arithmetic.autocast(CPU, enabled=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_the_user_is_told_once(machine, caplog):
    machine(40.0)
    with caplog.at_level(logging.WARNING, logger="sae_workbench"):
        for _ in range(2):
            arithmetic.usable(torch.bfloat16, CPU)
    (line,) = (r.getMessage() for r in caplog.records)
    assert "bfloat16" in line and "40 times" in line


@pytest.mark.parametrize(("times", "expected"), [(0.5, torch.bfloat16), (40.0, torch.float32)])
def test_a_model_a_search_and_muon_obey(times, expected, machine, monkeypatch):
    machine(times)
    lm = load_lm("fact-world", device="cpu", dtype="bfloat16")
    assert lm.model.dtype == expected
    muon = _optimizers(new_model(TrainingConfig(), lm.tokenizer, seed=0), TrainingConfig())[0]
    assert muon.param_groups[0]["dtype"] == expected
    searched: list[str] = []

    def candidates(*args: object) -> object:
        searched.append(str(args[4]))
        raise StopIteration

    monkeypatch.setattr("sae_train.saes.topk_search.among_candidates", candidates)
    with pytest.raises(StopIteration):
        top_k(torch.ones(2, 8), torch.ones(8, 4096), torch.ones(4096), 2, dtype="bfloat16")
    assert searched == [str(expected).removeprefix("torch.")]
