"""BatchTopK: the batch's largest against a sort, gradients against dense autograd, the threshold against the batch."""

from __future__ import annotations

import pytest
import torch

from sae_train.errors import ConfigError
from sae_train.saes import build_sae
from sae_train.saes.batch_topk import THRESHOLD_START, keep_largest

pytestmark = pytest.mark.xdist_group("sae_lens")  # one process imports it, which takes seconds

torch.set_num_threads(1)


def _dense_latents(sae, acts, n_kept: int) -> torch.Tensor:
    """Latents by the formula: everything sorted, everything dense."""
    return _largest((acts - sae.b_dec) @ sae.W_enc + sae.b_enc, n_kept)


def _largest(pre_acts, n_kept: int) -> torch.Tensor:
    """The largest of all, the others zero."""
    smallest = pre_acts.flatten().sort(descending=True).values[n_kept - 1]
    return pre_acts * (pre_acts >= smallest) * (pre_acts > 0)


def _fvu(target, recon) -> torch.Tensor:
    return (target - recon).square().sum() / (target - target.mean(0)).square().sum()


def _gradients(sae, loss) -> dict[str, torch.Tensor]:
    return dict(zip(dict(sae.named_parameters()), torch.autograd.grad(loss, list(sae.parameters())), strict=True))


# ------------------------------------------------------------------------------ choosing
def test_the_largest_of_the_batch_are_kept_and_tokens_differ(make_sae, make_acts):
    sae, acts = make_sae("batch-topk"), make_acts()
    pre_acts = sae.pre_acts(acts).detach()
    kept = keep_largest(pre_acts, len(acts) * sae.k)
    dense = torch.zeros(len(acts), sae.d_sae, dtype=torch.float64)
    dense[kept.tokens, kept.latents] = kept.values
    assert torch.equal(dense, _largest(pre_acts, len(acts) * sae.k))
    torch.testing.assert_close(dense, _dense_latents(sae, acts, len(acts) * sae.k).detach())  # a product of its own
    per_token = (dense != 0).sum(1)
    assert per_token.float().mean() == sae.k and per_token.min() < sae.k < per_token.max()
    order = kept.tokens * sae.d_sae + kept.latents
    assert (order.diff() > 0).all()


@pytest.mark.parametrize("guess", [0.0, 0.5, 1.9, 2.0, 3.5, 99.0])
def test_a_guess_changes_nothing(guess):
    pre_acts = torch.tensor([[3.0, -1.0, 2.0, 0.0], [1.0, -5.0, 4.0, -2.0]])
    for n_kept, expected in ((1, [4.0]), (3, [3.0, 2.0, 4.0]), (7, [3.0, 2.0, 1.0, 4.0])):
        assert keep_largest(pre_acts, n_kept, guess).values.tolist() == expected  # zero and less are never kept


def test_a_batch_with_nothing_above_zero_reconstructs_with_the_bias(make_sae, make_acts, make_context):
    sae, acts = make_sae("batch-topk"), make_acts()
    with torch.no_grad():
        sae.b_enc -= 100
    result = sae.training_loss(acts, make_context())
    result.loss.backward()
    assert result.loss.item() == pytest.approx(float(_fvu(acts, sae.b_dec.detach())))
    assert not result.fired.any() and sae.threshold == 0 and sae.n_batches == 0
    assert sae.W_enc.grad.abs().max() == 0 and sae.b_dec.grad.abs().max() > 0


# ------------------------------------------------------------------------------ loss
@pytest.mark.parametrize("n_dead", [0, 4, 30])
def test_loss_and_gradients_are_those_of_the_dense_formula(make_sae, make_acts, make_context, n_dead):
    """30 dead latents are more than the k_aux = 6 that may reconstruct, 4 are fewer; some tokens keep nothing."""
    sae, acts = make_sae("batch-topk", k=1), make_acts()
    dead = torch.arange(40) < n_dead
    latents = _dense_latents(sae, acts, len(acts))
    assert ((latents != 0).sum(1) == 0).any()
    recon = latents @ sae.W_dec + sae.b_dec
    loss = _fvu(acts, recon)
    if n_dead:
        error = (acts - recon).detach()
        pre_acts = ((acts - sae.b_dec) @ sae.W_enc + sae.b_enc)[:, dead]
        kth = pre_acts.sort(dim=1, descending=True).values[:, min(6, n_dead) - 1 :][:, :1]
        strongest = pre_acts * (pre_acts >= kth) * (pre_acts > 0)
        loss = loss + _fvu(error, strongest @ sae.W_dec[dead]) / 4
    expected = _gradients(sae, loss)
    result = sae.training_loss(acts, make_context(is_dead=dead, auxk_alpha=1 / 4))
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    assert torch.equal(result.fired, (latents != 0).any(0))
    for name, gradient in _gradients(sae, result.loss).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.abs().max() > 0


# ------------------------------------------------------------------------------ threshold
def test_the_threshold_is_a_moving_average_of_the_smallest_kept(make_sae, make_acts, make_context):
    sae, expected = make_sae("batch-topk"), 0.0
    for n in range(4):
        acts = make_acts(seed=n)
        smallest = _dense_latents(sae, acts, len(acts) * sae.k).detach()
        smallest = float(smallest[smallest > 0].min())
        expected += THRESHOLD_START / (THRESHOLD_START + n) * (smallest - expected)  # the first batch counts in full
        sae.training_loss(acts, make_context())
        assert sae.threshold.item() == pytest.approx(expected, rel=1e-7)  # the rate is float32
    sae.n_batches.fill_(10**6)
    before = sae.threshold.item()
    sae.training_loss(acts, make_context())
    assert sae.threshold.item() == pytest.approx(before + 0.01 * (smallest - before), rel=1e-7)


def test_inference_with_the_threshold_approximates_training(make_sae, make_acts, make_context):
    sae = make_sae("batch-topk")
    for n in range(60):
        sae.training_loss(make_acts(256, seed=n), make_context())
    acts = make_acts(2000, seed=99)
    trained, read = _dense_latents(sae, acts, len(acts) * sae.k) != 0, sae.encode(acts) != 0
    # A latent-token pair in a batch of 60 * 256 tokens is on by either rule, or by both: they share nearly all.
    assert read.sum(1).double().mean().item() == pytest.approx(sae.k, rel=0.03)
    assert (trained & read).sum() / (trained | read).sum() > 0.97
    alone = torch.cat([sae.encode(row) for row in acts.split(1)])
    torch.testing.assert_close(alone, sae.encode(acts), rtol=1e-9, atol=1e-9)  # no token depends on its batch


def test_impossible_k_is_refused():
    for k in (0, 41):
        with pytest.raises(ConfigError, match=r"\(k\)"):
            build_sae("batch-topk", 12, 40, k=k)


# ------------------------------------------------------------------------------ files and training
@pytest.mark.filterwarnings("ignore")  # SAELens' own imports
def test_saelens_reads_it_as_jumprelu(make_sae, make_acts, make_context, saelens_agrees):
    sae = make_sae("batch-topk")
    sae.training_loss(make_acts(), make_context())
    sae.float().fold_scale(0.37)
    loaded = saelens_agrees(sae, make_acts(seed=5).float() / 0.37)
    assert (loaded.arch, loaded.cfg["architecture"]) == ("jumprelu", "jumprelu")
    assert loaded.cfg["metadata"]["workbench_arch"] == "batch-topk"


def test_a_resumed_run_is_the_same_run(resumes_exactly):
    resumes_exactly("batch-topk", "threshold", "n_batches")


def test_planted_directions_are_found_and_not_in_shuffled_activations(planted_and_shuffled):
    results = planted_and_shuffled("batch-topk", steps=150)
    assert results["found"]["recovered"] > 0.8
    assert results["control"]["recovered"] < 0.2 and results["untrained"]["recovered"] < 0.2
    assert results["found"]["fvu"] < 0.1 < 0.4 < results["control"]["fvu"]
    assert results["found"]["l0"] == pytest.approx(3, rel=0.1)  # by the threshold, on held-out rows
