"""Matryoshka BatchTopK: nested losses against a slow reference, and what they do to the early latents."""

from __future__ import annotations

import pytest
import torch

from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.saes.batch_topk import keep_largest, support_of
from sae_train.saes.interop import load_sae
from sae_train.saes.matryoshka import prefix_sizes

pytestmark = pytest.mark.xdist_group("sae_lens")  # one process imports it, which takes seconds

torch.set_num_threads(1)
SHARES = (0.1, 0.25, 1.0)  # 4, 10 and 40 latents


def _reference(sae, acts, sizes) -> list[torch.Tensor]:
    """FVU of every prefix: all dense, one prefix after the other."""
    pre_acts = (acts - sae.b_dec) @ sae.W_enc + sae.b_enc
    smallest = pre_acts.flatten().sort(descending=True).values[len(acts) * sae.k - 1]
    latents = pre_acts * (pre_acts >= smallest) * (pre_acts > 0)
    total = (acts - acts.mean(0)).square().sum()
    return [(acts - latents[:, :m] @ sae.W_dec[:m] - sae.b_dec).square().sum() / total for m in sizes]


def test_the_loss_is_the_mean_over_nested_prefixes_with_its_gradients(make_sae, make_acts, make_context):
    sae, acts = make_sae("matryoshka", matryoshka_prefixes=SHARES), make_acts()
    fvus = _reference(sae, acts, (4, 10, 40))
    expected = torch.autograd.grad(sum(fvus) / 3, list(sae.parameters()))
    fvus = [fvu.item() for fvu in fvus]
    result = sae.training_loss(acts, make_context())
    assert result.loss.item() == pytest.approx(sum(fvus) / 3, rel=1e-12)
    assert result.terms["fvu"].item() == pytest.approx(fvus[2], rel=1e-12)
    assert result.terms["fvu_first_prefix"].item() == pytest.approx(fvus[0], rel=1e-12)
    for got, wanted in zip(torch.autograd.grad(result.loss, list(sae.parameters())), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
        assert got.abs().max() > 0


def test_weights_of_prefixes_are_those_of_the_loss(make_sae, make_acts, make_context):
    settings = {"matryoshka_prefixes": SHARES, "matryoshka_weights": (4.0, 0.0, 12.0)}
    sae, acts = make_sae("matryoshka", **settings), make_acts()
    fvus = _reference(sae, acts, (4, 10, 40))
    wanted = fvus[0] / 4 + fvus[2] * 3 / 4
    expected = torch.autograd.grad(wanted, list(sae.parameters()))
    result = sae.training_loss(acts, make_context())
    assert result.loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    for got, w in zip(torch.autograd.grad(result.loss, list(sae.parameters())), expected, strict=True):
        torch.testing.assert_close(got, w, rtol=1e-9, atol=1e-12)


def test_all_the_weight_on_the_last_prefix_is_batch_topk(make_sae, make_acts, make_context):
    settings = {"matryoshka_prefixes": SHARES, "matryoshka_weights": (0.0, 0.0, 1.0)}
    losses = [
        make_sae("batch-topk").training_loss(make_acts(), make_context()).loss,
        make_sae("matryoshka", **settings).training_loss(make_acts(), make_context()).loss,
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 0.0, 0.0), (1.0, 1.0, -1.0)])
def test_weights_that_do_not_go_with_the_prefixes_are_refused(weights):
    with pytest.raises(ConfigError, match="matryoshka_weights"):
        SaeTrainConfig("layers.0", arch="matryoshka", matryoshka_prefixes=SHARES, matryoshka_weights=weights)


def test_one_prefix_is_batch_topk(make_sae, make_acts, make_context):
    acts, dead = make_acts(), torch.arange(40) < 5
    results = []
    for sae in (make_sae("batch-topk"), make_sae("matryoshka", matryoshka_prefixes=(1.0,))):
        loss = sae.training_loss(acts, make_context(is_dead=dead)).loss
        results.append([loss, sae.threshold, *torch.autograd.grad(loss, list(sae.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_prefix_does_not_see_the_latents_after_it(make_sae, make_acts):
    sae, acts = make_sae("matryoshka", matryoshka_prefixes=SHARES), make_acts()
    kept = keep_largest(sae.pre_acts(acts).detach(), len(acts) * sae.k)
    support = support_of(kept.latents, kept.tokens, len(acts), sae.d_sae)
    before = sae.prefix_errors(acts - sae.b_dec, kept.values, support)
    with torch.no_grad():
        sae.W_dec[10:] += 1
    after = sae.prefix_errors(acts - sae.b_dec, kept.values, support)
    assert torch.equal(before[:2], after[:2]) and not torch.equal(before[2], after[2])


def test_dead_latents_learn_from_the_error_of_all_together(make_sae, make_acts, make_context):
    """AuxK on top of the nested loss is BatchTopK's: its value does not depend on the prefixes."""
    dead = torch.arange(40) < 5
    values = [
        float(sae.training_loss(make_acts(), make_context(is_dead=dead)).terms["auxk"])
        for sae in (make_sae("batch-topk"), make_sae("matryoshka", matryoshka_prefixes=SHARES))
    ]
    assert values[0] > 0 and values[1] == pytest.approx(values[0], rel=1e-12)


def test_prefix_sizes_of_narrow_saes_are_counted_once():
    assert prefix_sizes(SaeTrainConfig("embed").matryoshka_prefixes, 4096) == [256, 512, 1024, 2048, 4096]
    assert prefix_sizes((0.001, 0.002, 0.5, 1.0), 10) == [1, 5, 10]


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.25, 1.0), (0.5, 0.5, 1.0), (0.0, 1.0), (-0.5, 1.0), (0.5, 2.0)])
def test_prefixes_that_are_not_nested_shares_are_refused(shares):
    with pytest.raises(ConfigError, match="matryoshka_prefix"):
        SaeTrainConfig("layers.0", arch="matryoshka", matryoshka_prefixes=shares)


# ------------------------------------------------------------------------------ files and training
@pytest.mark.filterwarnings("ignore")  # SAELens' own imports
def test_saelens_reads_it_as_jumprelu(make_sae, make_acts, make_context, saelens_agrees):
    sae = make_sae("matryoshka")
    sae.training_loss(make_acts(), make_context())
    sae.float().fold_scale(0.37)
    loaded = saelens_agrees(sae, make_acts(seed=5).float() / 0.37)
    assert loaded.cfg["architecture"] == "jumprelu" and loaded.cfg["metadata"]["workbench_arch"] == "matryoshka"


def test_a_resumed_run_is_the_same_run(resumes_exactly):
    resumes_exactly("matryoshka", "threshold", "n_batches", matryoshka_weights=(1.0, 2.0, 4.0, 8.0, 16.0))


def test_planted_directions_are_found_and_early_latents_stand_alone(planted_and_shuffled, make_store, tmp_path):
    """A quarter of the latents explains more by itself than a quarter of a plain SAE's, where any will do."""
    results = planted_and_shuffled("matryoshka", steps=150, matryoshka_prefixes=(0.25, 1.0))
    assert results["found"]["recovered"] > 0.8
    assert results["control"]["recovered"] < 0.2 and results["untrained"]["recovered"] < 0.2
    assert results["found"]["fvu"] < 0.1 < 0.4 < results["control"]["fvu"]
    assert results["found"]["l0"] == pytest.approx(3, rel=0.1)
    sae = load_sae(tmp_path / "found")
    generator = torch.Generator().manual_seed(11)  # the rows that were trained on
    directions = torch.nn.functional.normalize(torch.randn(24, 32, generator=generator), dim=1)
    cosines = directions @ sae.W_dec.T
    early, late = (cosines[:, part].amax(1) > 0.9 for part in (slice(12), slice(12, None)))
    assert early.sum() >= 9  # nearly every one of the twelve early latents is a direction of its own
    assert late.sum() >= 9  # and the others are left to the later ones
