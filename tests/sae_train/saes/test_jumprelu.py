"""JumpReLU: straight-through gradients against loops and against the density they estimate; thresholds; L0 target."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, ShapeError
from sae_train.saes import build_sae
from sae_train.saes.interop import WEIGHTS, load_sae, save_sae
from sae_train.saes.jumprelu import THRESHOLD_SPEED, JumpRelu, JumpReluSae, Step

pytestmark = pytest.mark.xdist_group("sae_lens")  # one process imports it, which takes seconds

torch.set_num_threads(1)
BANDWIDTH = 0.8  # wide enough that many pre-activations lie in the window


def _sae(make_sae, **settings) -> JumpReluSae:
    """Thresholds of many sizes, some of them moved by training."""
    sae = make_sae("jumprelu", **{"jumprelu_bandwidth": BANDWIDTH, "l0_coefficient": 2.0, **settings})
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        sae.start_threshold.copy_(0.2 + torch.rand(sae.d_sae, generator=generator))
        sae.log_growth.copy_(0.2 * torch.randn(sae.d_sae, generator=generator))
    return sae


def _by_hand(pre_acts, thresholds, out_grad, *, step: bool):
    """The formulas of the module's docstring, one number at a time."""
    d_pre_acts, d_thresholds = torch.zeros_like(pre_acts), torch.zeros_like(thresholds)
    for i in range(len(pre_acts)):
        for j in range(len(thresholds)):
            z, theta, g = float(pre_acts[i, j]), float(thresholds[j]), float(out_grad[i, j])
            height = 1 / BANDWIDTH if abs((z - theta) / BANDWIDTH) < 0.5 else 0.0
            d_thresholds[j] -= g * height * (1 if step else theta)
            if z > theta and not step:
                d_pre_acts[i, j] = g
    return d_pre_acts, d_thresholds


# ------------------------------------------------------------------------------ straight-through estimators
@pytest.mark.parametrize("step", [False, True], ids=["jumprelu", "step"])
def test_gradients_are_the_formulas_written_out(step):
    generator = torch.Generator().manual_seed(1)
    pre_acts = torch.randn(30, 5, generator=generator, dtype=torch.float64).requires_grad_()
    thresholds = torch.tensor([0.1, 0.5, 1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    out_grad = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    out = (Step if step else JumpRelu).apply(pre_acts, thresholds, BANDWIDTH)
    on = (pre_acts > thresholds).double()
    assert torch.equal(out, on if step else pre_acts * on)
    got = torch.autograd.grad(out, (pre_acts, thresholds), out_grad, allow_unused=True, materialize_grads=True)
    by_hand = _by_hand(pre_acts.detach(), thresholds.detach(), out_grad, step=step)
    for a, b in zip(got, by_hand, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert (got[1][:4] != 0).all()


def test_the_step_gradient_estimates_the_density_at_the_threshold():
    """L0 of standard normal numbers is 1 - Phi(theta): its derivative is -phi(theta), which no single sample shows."""
    pre_acts = torch.randn(1_000_000, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for theta in (0.3, 1.0, 2.0):
        threshold = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
        Step.apply(pre_acts, threshold, 0.1).mean().backward()
        density = math.exp(-(theta**2) / 2) / math.sqrt(2 * math.pi)
        # A million * 0.1 * density numbers are in the window, over 5,000: a standard error below 1.4 %.
        assert threshold.grad.item() == pytest.approx(-density, rel=0.05)


# ------------------------------------------------------------------------------ loss
@pytest.mark.parametrize(("progress", "strength"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.9, 1.0)])
def test_the_loss_is_that_of_its_formula_and_warms_up(make_sae, make_acts, make_context, progress, strength):
    sae, acts = _sae(make_sae), make_acts()
    thresholds = sae.start_threshold * (THRESHOLD_SPEED * sae.log_growth).exp()
    pre_acts = (acts - sae.b_dec) @ sae.W_enc + sae.b_enc
    latents = pre_acts * (pre_acts > thresholds)
    mse = (acts - latents @ sae.W_dec - sae.b_dec).square().sum(1).mean() / 12
    l0 = (latents > 0).sum(1).double().mean()
    result = sae.training_loss(acts, make_context(progress=progress, frac_l1_warmup=0.1))
    assert result.loss.item() == pytest.approx((mse + 2 * strength * (l0 / 4 - 1) ** 2).item(), rel=1e-12)
    assert result.terms["l0"].item() == pytest.approx(float(l0)) and abs(float(l0) - 4) > 0.5
    assert torch.equal(result.fired, (latents > 0).any(0))
    torch.testing.assert_close(sae.encode(acts), latents)


def test_gradients_of_the_loss_are_the_formulas_written_out(make_sae, make_acts, make_context):
    sae, acts = _sae(make_sae), make_acts(20)
    sae.training_loss(acts, make_context()).loss.backward()
    thresholds = sae.thresholds().detach()
    pre_acts = sae.pre_acts(acts).detach()
    latents = sae.encode(acts).detach()
    d_recon = 2 * (sae.decode(latents).detach() - acts) / (12 * 20)
    d_pre_acts, d_thresholds = _by_hand(pre_acts, thresholds, d_recon @ sae.W_dec.detach().T, step=False)
    l0 = (latents > 0).sum(1).double().mean()
    d_l0 = 2.0 * 2 * (l0 / 4 - 1) / 4
    d_thresholds += _by_hand(pre_acts, thresholds, d_l0.expand(20, 40) / 20, step=True)[1]
    torch.testing.assert_close(sae.log_growth.grad, THRESHOLD_SPEED * thresholds * d_thresholds)
    torch.testing.assert_close(sae.W_enc.grad, (acts - sae.b_dec).detach().T @ d_pre_acts)  # none from the L0 term
    torch.testing.assert_close(sae.b_enc.grad, d_pre_acts.sum(0))
    torch.testing.assert_close(sae.W_dec.grad, latents.T @ d_recon)
    torch.testing.assert_close(sae.b_dec.grad, d_recon.sum(0) - (sae.W_enc.detach() @ d_pre_acts.T).sum(1))


def test_dead_latents_are_revived_by_the_formula_that_is_chosen(make_sae, make_acts, make_context):
    """Each is what it adds to the loss without, with its gradients; where nothing is dead it adds nothing."""
    acts, dead = make_acts(30), torch.arange(40) < 9
    for revival in ("none", "auxk", "pre-acts"):
        sae = _sae(make_sae, jumprelu_revival=revival, pre_acts_coefficient=0.5)
        context = make_context(is_dead=dead, auxk_alpha=1 / 4)
        pre_acts, theta = (acts - sae.b_dec) @ sae.W_enc + sae.b_enc, sae.thresholds()
        added = torch.zeros((), dtype=torch.float64) + 0 * sum(p.sum() for p in sae.parameters())
        if revival == "auxk":
            error = (acts - sae(acts)).detach()
            mine = pre_acts[:, dead]
            kept = mine * (mine >= mine.sort(dim=1, descending=True).values[:, 5, None]) * (mine > 0)
            rest = error - kept @ sae.W_dec[dead]
            added = added + rest.square().sum() / (error - error.mean(0)).square().sum() / 4
        if revival == "pre-acts":
            below = (theta - pre_acts).clamp_min(0)[:, dead] * sae.W_dec[dead].norm(dim=1)
            added = added + 0.5 * below.sum() / (30 * 12)
        plain = _sae(make_sae).training_loss(acts, context).loss
        assert sae.training_loss(acts, make_context()).loss.item() == pytest.approx(plain.item(), rel=1e-12)
        found, without = sae.training_loss(acts, context).loss, _sae(make_sae)
        assert found.item() == pytest.approx((plain + added).item(), rel=1e-12)
        wanted = torch.autograd.grad(added, list(sae.parameters()))
        base = torch.autograd.grad(without.training_loss(acts, context).loss, list(without.parameters()))
        for a, b, w in zip(torch.autograd.grad(found, list(sae.parameters())), base, wanted, strict=True):
            torch.testing.assert_close(a - b, w, rtol=1e-9, atol=1e-12)
        assert (wanted[0].abs().max() > 0) == (revival != "none")


@pytest.mark.parametrize("k", [2, 20])
def test_the_sparsity_term_drives_l0_to_its_target_from_both_sides(make_sae, make_acts, make_context, k):
    sae = _sae(make_sae, k=k, l0_coefficient=100.0)  # what reconstruction wants counts for little
    before = float(sae.training_loss(make_acts(512), make_context()).terms["l0"])
    assert (before > k) == (k == 2)
    optimizer = torch.optim.Adam([sae.log_growth], lr=0.01)
    for n in range(200):
        optimizer.zero_grad()
        sae.training_loss(make_acts(256, seed=n), make_context(frac_l1_warmup=0.0)).loss.backward()
        optimizer.step()
    after = float(sae.training_loss(make_acts(512, seed=99), make_context()).terms["l0"])
    assert after == pytest.approx(k, rel=0.15) and abs(after - k) < abs(before - k) / 2


# ------------------------------------------------------------------------------ thresholds
def test_thresholds_start_where_the_target_is_met(make_sae, make_acts):
    sae, acts = make_sae("jumprelu"), make_acts(500)
    assert sae.thresholds().tolist() == pytest.approx([0.001 * 12**0.5] * 40)
    assert float((sae.encode(acts) != 0).sum(1).double().mean()) > 10
    sae.init_thresholds(acts)
    # The smallest value that should stay is the threshold itself, which has to be exceeded: one pair of 2,000 less.
    assert float((sae.encode(acts) != 0).sum(1).double().mean()) == pytest.approx(sae.k, abs=1 / 500)
    with torch.no_grad():
        sae.b_enc -= 100
    sae.init_thresholds(acts)
    assert (sae.thresholds() > 0).all()


@pytest.mark.parametrize("k", [0, 41])
def test_an_impossible_target_is_refused(k):
    with pytest.raises(ConfigError, match=r"\(k\)"):
        build_sae("jumprelu", 12, 40, k=k)


# ------------------------------------------------------------------------------ files and training
@pytest.mark.filterwarnings("ignore")  # SAELens' own imports
def test_saelens_reads_the_same_sae(make_sae, make_acts, saelens_agrees):
    sae = _sae(make_sae).float()
    sae.fold_scale(0.37)
    loaded = saelens_agrees(sae, make_acts(seed=5).float() / 0.37)
    assert loaded.cfg["metadata"]["workbench_arch"] == loaded.arch == "jumprelu"
    assert torch.equal(loaded.thresholds(), sae.thresholds())  # to the last bit


@pytest.mark.filterwarnings("ignore")
def test_thresholds_of_others_may_be_zero_or_less(make_sae, make_acts, tmp_path):
    from sae_lens import SAE

    save_sae(_sae(make_sae).float(), tmp_path / "sae", hook_point="layers.3", metadata={})
    tensors, acts = load_file(tmp_path / "sae" / WEIGHTS), make_acts().float()
    tensors["threshold"][:20], tensors["threshold"][20] = -1.0, 0.0
    save_file(tensors, tmp_path / "sae" / WEIGHTS)
    with torch.no_grad():
        latents = load_sae(tmp_path / "sae").encode(acts)
        torch.testing.assert_close(latents, SAE.load_from_disk(str(tmp_path / "sae")).encode(acts), rtol=0, atol=0)
    assert (latents >= 0).all() and (latents[:, :21] > 0).any(0).all()
    save_file({k: v for k, v in tensors.items() if k != "threshold"}, tmp_path / "sae" / WEIGHTS)
    with pytest.raises(ShapeError, match="threshold"):
        load_sae(tmp_path / "sae")


@pytest.mark.parametrize("revival", ["none", "auxk", "pre-acts"])
def test_a_resumed_run_is_the_same_run(resumes_exactly, revival):
    resumes_exactly("jumprelu", "log_growth", "start_threshold", jumprelu_revival=revival, frequency_coefficient=0.5)


def test_planted_directions_are_found_and_not_in_shuffled_activations(planted_and_shuffled):
    results = planted_and_shuffled("jumprelu", steps=150)
    assert results["found"]["recovered"] > 0.8
    assert results["control"]["recovered"] < 0.2 and results["untrained"]["recovered"] < 0.2
    assert results["found"]["fvu"] < 0.1 < 0.4 < results["control"]["fvu"]
    assert results["found"]["l0"] == pytest.approx(3, rel=0.1)


def test_the_window_has_one_default():
    assert JumpReluSae(4, 8).bandwidth == SaeTrainConfig("layers.0").jumprelu_bandwidth
