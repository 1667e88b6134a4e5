"""p-annealing: the penalty of its formula over a run, in float64; exact resume; L1 stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.saes import sae_from_config
from sae_train.training.state import prepare
from sae_train.training.step import train_step

torch.set_num_threads(1)
EPS, N_STEPS, P_END = 0.05, 10, 0.2
POWERS = [1.0, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]  # of ten steps, and after the last


def _latents(sae, acts):
    return ((acts - sae.b_dec) @ sae.W_enc + sae.b_enc).clamp_min(0)


def _s(values, p):
    return ((values + EPS) ** p - EPS**p).sum(1).mean() / 12


def _step(sae, context, acts):
    """Return the loss of a step and the gradients, and let the SAE go on to the next one."""
    result = sae.training_loss(acts, context)
    gradients = torch.autograd.grad(result.loss, list(sae.parameters()))
    sae.after_step(context, result.terms)
    return result.loss.item(), gradients


def test_the_loss_of_every_step_is_that_of_its_formula(make_sae, make_acts, make_context):
    sae, factor = make_sae("relu", relu_p_end=P_END), 1.0
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, 40)[:, None]  # the norms count
    for step in range(N_STEPS):
        acts = make_acts(seed=step)
        values = _latents(sae, acts) * sae.W_dec.norm(dim=1)
        assert 0.2 < (values == 0).double().mean() < 0.8
        recon = _latents(sae, acts) @ sae.W_dec + sae.b_dec
        error = (acts - recon).square().sum(1).mean() / 12
        expected = error + 3 * factor * _s(values, POWERS[step])
        wanted = torch.autograd.grad(expected, list(sae.parameters()), retain_graph=True)
        context = make_context(progress=step / N_STEPS, step_share=1 / N_STEPS, l1_coefficient=3.0, frac_l1_warmup=0.0)
        loss, gradients = _step(sae, context, acts)
        assert loss == pytest.approx(expected.item(), rel=1e-12), step
        for a, b in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        factor *= (_s(values, POWERS[step]) / _s(values, POWERS[step + 1])).item()
    assert factor > 2 and float(sae.annealing.factor) == pytest.approx(factor, rel=1e-12)


def test_small_latents_pay_more_and_large_ones_less_as_p_falls(make_sae, make_acts, make_context):
    """What it is for: the same penalty, but its slope is steeper where little is on and flatter where much is."""
    sae, acts = make_sae("relu", relu_p_end=P_END), make_acts()
    slopes = []
    for step in range(N_STEPS):
        values = (_latents(sae, acts) * sae.W_dec.norm(dim=1)).detach().requires_grad_()
        context = make_context(progress=step / N_STEPS, step_share=1 / N_STEPS)
        now, after = sae.annealing.sums(values, values.detach() > 0, context)
        slopes.append(torch.autograd.grad(sae.annealing.factor * now, values)[0])
        sae.annealing.after_step(now.detach(), after, context)
    on = values > 0
    small, large = on & (values < 0.1), on & (values > values[on].quantile(0.9))
    assert small.any() and slopes[0][on].unique().tolist() == [1.0]
    assert slopes[-1][small].min() > 1.5 and slopes[-1][large].max() < 0.7


def test_a_step_with_nothing_on_leaves_the_weight(make_sae, make_acts, make_context):
    sae = make_sae("relu", relu_p_end=P_END)
    with torch.no_grad():
        sae.b_enc -= 100
    _step(sae, make_context(progress=0.5, step_share=0.1), make_acts())
    assert float(sae.annealing.factor) == 1.0


def test_a_run_that_is_resumed_gives_the_same_bytes(resumes_exactly):
    resumes_exactly("relu", "annealing.factor", relu_p_end=0.3)


def test_training_tells_it_of_every_step_and_micro_batches_are_that_step(make_store):
    rows = torch.randn(640, 32, generator=torch.Generator().manual_seed(2)) * 3 + 1
    sizes = {"d_sae": 64, "batch_size": 64, "tokens": 640, "lr": 3e-3}
    factors = []
    with ActivationStore(make_store(rows)) as store:
        for accumulate in (1, 4):
            config = SaeTrainConfig("layers.0", arch="relu", relu_p_end=0.3, accumulate=accumulate, **sizes)
            state, plan = prepare(store, config, np.ones(640, dtype=bool), torch.device("cpu"))
            for batch in rows.split(64):
                train_step(state, batch, config, plan)
            factors.append(float(state.sae.annealing.factor))
    assert abs(factors[0] - 1) > 0.05 and factors[1] == pytest.approx(factors[0], rel=1e-4)


def test_l1_has_nothing_to_keep_and_a_transcoder_anneals_as_well():
    places = {"hook_point": "a", "arch": "relu", "d_sae": 8}
    plain = sae_from_config(SaeTrainConfig(**places), 4)
    other = sae_from_config(SaeTrainConfig(**places, target_hook_point="b", relu_p_end=0.5), 4, 6)
    assert set(plain.state_dict()) == {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert other.annealing.power(1.0) == 0.5 and "annealing.factor" in other.state_dict()
