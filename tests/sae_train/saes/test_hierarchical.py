"""Hierarchical TopK: the loss of several k, written out; what it gives at fewer latents than it was trained with."""

from __future__ import annotations

import pytest
import torch

from sae_train import train_sae
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.quality.metrics import fvu
from sae_train.run.progress import silent

torch.set_num_threads(1)


@pytest.mark.parametrize("n_dead", [0, 9])
def test_loss_and_gradients_are_those_of_the_formula(make_sae, make_acts, make_context, n_dead):
    sae, acts = make_sae("hierarchical-topk", k=8, hierarchical_shares=(1 / 8, 1 / 2, 1.0)), make_acts()
    assert sae.levels.tolist() == [1, 4, 8]
    context = make_context(is_dead=torch.arange(40) < n_dead, auxk_alpha=1 / 4)
    result = sae.training_loss(acts, context)
    pre_acts = (acts - sae.b_dec) @ sae.W_enc + sae.b_enc
    variance, fvus = (acts - acts.mean(0)).square().sum(), []
    for level in (1, 4, 8):
        values, at = pre_acts.topk(level, dim=1)
        latents = torch.zeros_like(pre_acts).scatter(1, at, values.relu())
        error = acts - latents @ sae.W_dec - sae.b_dec
        fvus.append(error.square().sum() / variance)
    expected, error = sum(fvus) / 3, error.detach()
    if n_dead:
        values, at = pre_acts[:, :n_dead].topk(6, dim=1)
        e_hat = torch.zeros(len(acts), n_dead, dtype=acts.dtype).scatter(1, at, values.relu()) @ sae.W_dec[:n_dead]
        expected = expected + (error - e_hat).square().sum() / (error - error.mean(0)).square().sum() / 4
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert result.terms["fvu"].item() == pytest.approx(fvus[-1].item(), rel=1e-12)
    assert result.terms["fvu_first_level"].item() == pytest.approx(fvus[0].item(), rel=1e-12)
    found = torch.autograd.grad(result.loss, list(sae.parameters()))
    for a, b in zip(found, torch.autograd.grad(expected, list(sae.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_one_level_is_topk(make_sae, make_acts, make_context):
    one, other = make_sae("hierarchical-topk", hierarchical_shares=(1.0,)), make_sae("topk")
    losses = [sae.training_loss(make_acts(), make_context()).loss for sae in (one, other)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, list(s.parameters())) for loss, s in zip(losses, (one, other), strict=True)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.25, 1.0), (0.5, 0.5, 1.0)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ConfigError, match="hierarchical_shares"):
        SaeTrainConfig("layers.0", arch="hierarchical-topk", hierarchical_shares=shares)


def test_a_resumed_run_is_the_same_run(resumes_exactly):
    resumes_exactly("hierarchical-topk")


def test_it_reconstructs_better_than_topk_with_fewer_latents_than_it_was_trained_with(make_store):
    """On what has no few right latents: Gaussian rows of unequal spread, where every k has its own best dictionary."""
    rows = torch.randn(2000, 32, generator=torch.Generator().manual_seed(2)) * torch.linspace(0.2, 2, 32)
    path, settings = make_store(rows, chunk_rows=500), {"k": 8, "d_sae": 64, "batch_size": 256, "lr": 5e-3}
    found = {}
    for arch in ("topk", "hierarchical-topk"):
        sae = train_sae(path, arch=arch, tokens=256 * 120, device="cpu", progress=silent, **settings)
        for k in (1, 2, 8):
            sae.k = k
            with torch.no_grad():
                found[arch, k] = float(fvu(rows, sae(rows)))
    for k in (1, 2):
        assert found["hierarchical-topk", k] < found["topk", k] - 0.02, found
    assert found["hierarchical-topk", 8] < found["topk", 8] + 0.1, found
