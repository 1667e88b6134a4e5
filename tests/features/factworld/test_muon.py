"""Muon against torch's own, and what its orthogonalisation is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from features.factworld.muon import Muon, orthogonalised

torch.set_num_threads(1)


def _matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((8, 24), (24, 8), (16, 16))]


def _trained(optimizer: torch.optim.Optimizer, matrices: list[nn.Parameter]) -> list[torch.Tensor]:
    for step in range(4):
        generator = torch.Generator().manual_seed(step + 1)
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimizer.step()
    return [m.detach() for m in matrices]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.0), (torch.float32, 2e-3)])
def test_steps_are_those_of_torch(dtype, tolerance):
    ours, theirs = _matrices(), _matrices()
    own = _trained(Muon(ours, lr=0.02, weight_decay=0.05, dtype=dtype), ours)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for a, b in zip(own, _trained(reference, theirs), strict=True):
        assert (a - b).abs().max() <= tolerance
    assert not torch.equal(own[0], _matrices()[0])


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_singular_values_come_near_one(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    before = update.clone()
    values = torch.linalg.svdvals(orthogonalised(update, torch.float32))
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3
    assert torch.equal(update, before)
