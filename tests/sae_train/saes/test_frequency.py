"""Frequency penalty: its formula with gradients, in every architecture; always-on latents go, others are left alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.quality.evaluate import firing_rate
from sae_train.saes import ARCHS
from sae_train.saes.interop import WEIGHTS, load_sae
from sae_train.saes.losses.frequency import firing_excess
from sae_train.saes.losses.whole_batch import WholeBatch
from sae_train.training.jobs import train_one

torch.set_num_threads(1)


def _latents(sae, acts):
    """Return the latents of a training step, dense, with plain gradients."""
    pre_acts = (acts - sae.b_dec) @ sae.W_enc + sae.b_enc
    if sae.arch in ("topk", "hierarchical-topk"):
        at_least = pre_acts.sort(dim=1, descending=True).values[:, sae.k - 1, None]
    elif sae.arch in ("batch-topk", "matryoshka"):
        at_least = pre_acts.flatten().sort(descending=True).values[len(acts) * sae.k - 1]
    else:
        at_least = sae.thresholds().detach() if sae.arch == "jumprelu" else 0.0
    return pre_acts * (pre_acts >= at_least) * (pre_acts > 0)


@pytest.mark.parametrize("arch", ARCHS)
def test_value_and_gradients_are_those_of_the_formula(make_sae, make_acts, make_context, arch):
    sae, acts = make_sae(arch), make_acts(60)
    latents = _latents(sae, acts)
    rates = (latents > 0).double().mean(dim=0)
    limit = float(rates.median())
    plain = make_context()
    given = replace(plain, frequency_coefficient=3.0, max_frequency=limit)
    assert (rates > limit).any() and (rates <= limit).any()
    weights = (rates / limit - 1).clamp_min(0)
    penalty = (latents * weights).sum(dim=1).mean() / 12**0.5
    with_it, without = (copy.deepcopy(sae).training_loss(acts, c) for c in (given, plain))
    assert "frequency" not in without.terms
    assert with_it.terms["frequency"].item() == pytest.approx(penalty.item(), rel=1e-12)
    assert (with_it.loss - without.loss).item() == pytest.approx(3 * penalty.item(), rel=1e-9)
    names = ["W_enc", "b_enc", "b_dec"]
    wanted = torch.autograd.grad(penalty, [getattr(sae, n) for n in names])
    grads = []
    for context in (given, plain):
        one = copy.deepcopy(sae)
        loss = one.training_loss(acts, context).loss
        grads.append(torch.autograd.grad(loss, [getattr(one, n) for n in names]))
    for name, a, b, w in zip(names, *grads, wanted, strict=True):
        torch.testing.assert_close(a - b, 3 * w, rtol=1e-9, atol=1e-12, msg=name)
        assert w.abs().max() > 0


def test_only_what_is_above_the_limit_is_in_excess(make_acts, make_context):
    batch = WholeBatch.of(make_acts(50))
    excess = firing_excess(torch.tensor([0, 5, 10, 15, 50]), 0.2, batch)
    assert excess.tolist() == pytest.approx([0, 0, 0, 0.5, 4.0])


def _dense_rows(n: int) -> torch.Tensor:
    """Return sums of three of 24 directions, and one more, three times as long, on in six of ten rows."""
    generator = torch.Generator().manual_seed(11)
    directions = torch.nn.functional.normalize(torch.randn(25, 32, generator=generator), dim=1)
    on = torch.rand(n, 24, generator=generator).argsort(1) < 3
    always = torch.rand(n, 1, generator=generator) < 0.6
    on = torch.cat([on, always], dim=1)
    size = 1 + torch.rand(n, 25, generator=generator)
    size[:, 24] *= 3
    return 5 * (on * size) @ directions


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["topk", "batch-topk", "jumprelu"])
def test_a_latent_that_is_nearly_always_on_is_held_back(make_store, tmp_path, arch):
    rows = _dense_rows(3000)
    config = SaeTrainConfig("layers.0", arch=arch, k=4, d_sae=48, batch_size=256, tokens=256 * 200, lr=1e-2)
    highest = {}
    with ActivationStore(make_store(rows, chunk_rows=500)) as store:
        use = store.holdout_rows(config.frac_holdout, config.rows_seed)
        for weight in (0.0, 1.0):
            out = tmp_path / f"{weight}"
            train_one(store, replace(config, frequency_coefficient=weight, max_frequency=0.3), out, device="cpu")
            highest[weight] = float(firing_rate(load_sae(out), store, "layers.0", use, max_rows=10_000).max())
    assert highest[0.0] > 0.4 and highest[1.0] < 0.8 * highest[0.0]


def test_where_nothing_fires_too_often_the_weights_are_the_same_to_the_last_bit(make_store, tmp_path):
    """The control: directions that are on in an eighth of the rows, a limit that no latent passes."""
    rows = torch.randn(600, 32, generator=torch.Generator().manual_seed(2)) * 3 + 1
    config = SaeTrainConfig("layers.0", k=3, d_sae=64, batch_size=64, tokens=320, frac_holdout=0.1)
    with ActivationStore(make_store(rows)) as store:
        for name, settings in {
            "none": {},
            "far": {"frequency_coefficient": 5.0, "max_frequency": 1.0},
            "near": {"frequency_coefficient": 5.0, "max_frequency": 0.02},
        }.items():
            train_one(store, replace(config, **settings), tmp_path / name, device="cpu")
    none, far, near = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("none", "far", "near"))
    assert none == far != near
