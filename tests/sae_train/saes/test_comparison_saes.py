"""Comparison of SAEs against planted permutations, planted halves, chance and a brute-force assignment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sae_train import compare_saes
from sae_train.errors import ConfigError, MemoryShortError, ShapeError
from sae_train.saes import build_sae, comparison
from sae_train.saes.base import Sae
from sae_train.saes.comparison import frac_weighted

torch.set_num_threads(1)
D_IN, D_SAE = 32, 120
BOTH = pytest.mark.parametrize("matching", ["hungarian", "mutual-nearest"])


def _limit(matching: str) -> int:
    return D_SAE * 10 if matching == "hungarian" else 0


def _sae(seed: int, d_sae: int = D_SAE, d_in: int = D_IN) -> Sae:
    """Random directions; encoder columns are not the decoder rows, and neither has length one."""
    sae = build_sae("relu", d_in, d_sae)
    sae.init_weights(torch.zeros(d_in), seed)
    generator = torch.Generator().manual_seed(seed + 1000)
    with torch.no_grad():
        sae.W_enc += 0.1 * torch.randn(d_in, d_sae, generator=generator)
        sae.W_dec *= 0.5 + torch.rand(d_sae, 1, generator=generator)
    return sae


def _shuffled(sae: Sae, seed: int = 0) -> tuple[Sae, np.ndarray]:
    """A copy in another order and scale; latent i of the copy is latent order[i] of the original."""
    order = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(seed))
    copy = build_sae("relu", sae.d_in, sae.d_sae)
    with torch.no_grad():
        copy.W_dec.copy_(3 * sae.W_dec[order])
        copy.W_enc.copy_(sae.W_enc[:, order] / 3)
    return copy, order.numpy()


@BOTH
def test_a_permuted_copy_is_recovered(matching):
    sae = _sae(0)
    copy, order = _shuffled(sae)
    found = compare_saes(sae, copy, max_hungarian=_limit(matching))
    assert found.matching == matching
    assert found.pairs.a.tolist() == list(range(D_SAE))
    assert np.array_equal(order[found.pairs.b], found.pairs.a)
    assert np.array_equal(order[found.nearest_a.latent], np.arange(D_SAE))
    assert np.array_equal(found.nearest_b.latent, order)
    for cosines in (found.pairs.cosine, found.encoder_cosine, found.nearest_a.cosine, found.nearest_b.cosine):
        np.testing.assert_allclose(cosines, 1, atol=1e-5)
    summary = found.summary()
    assert (summary["frac_twins_a"], summary["frac_twins_b"], summary["frac_twins_a_encoder_too"]) == (1, 1, 1)
    assert summary["chance_frac_twins_a"] < 0.05 and summary["chance_mean_cosine"] < 0.6


@BOTH
def test_random_ones_are_at_chance(matching):
    """Negative control: two unrelated SAEs, and the same again with other random directions."""
    summary = compare_saes(_sae(0), _sae(1), max_hungarian=_limit(matching)).summary()
    assert summary["mean_cosine"] == pytest.approx(summary["chance_mean_cosine"], abs=0.03)
    assert summary["median_cosine"] == pytest.approx(summary["chance_median_cosine"], abs=0.03)
    assert summary["frac_twins_a"] <= 0.02
    other = compare_saes(_sae(0), _sae(1), seed=1, max_hungarian=_limit(matching)).summary()
    assert other["chance_mean_cosine"] != summary["chance_mean_cosine"]
    assert other["mean_cosine"] == summary["mean_cosine"], "only chance depends on the seed"


@BOTH
def test_a_planted_half_is_found(matching):
    sae, other = _sae(0), _sae(1)
    with torch.no_grad():
        other.W_dec[: D_SAE // 2] = sae.W_dec[D_SAE // 2 :]  # decoder only: the encoder half must not count as shared
    found = compare_saes(sae, other, max_hungarian=_limit(matching))
    assert found.has_twin_a()[D_SAE // 2 :].all() and found.has_twin_b()[: D_SAE // 2].all()
    assert found.summary()["frac_twins_a"] == pytest.approx(0.5, abs=0.02)
    assert found.summary()["frac_twins_a_encoder_too"] < 0.1
    assert found.partner(D_SAE - 1) == pytest.approx(
        {
            "latent": D_SAE - 1,
            "partner": D_SAE // 2 - 1,
            "cosine": 1.0,
            "encoder_cosine": float(found.encoder_cosine[-1]),
            "nearest": D_SAE // 2 - 1,
            "nearest_cosine": 1.0,
            "has_twin": True,
        },
        abs=1e-5,
    )


def test_the_threshold_decides_who_is_a_twin():
    """Two latents whose decoder rows stand at cosines 0.6 and 0.8 to the originals."""
    a, b = build_sae("relu", 4, 2), build_sae("relu", 4, 2)
    with torch.no_grad():
        a.W_dec.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]))
        b.W_dec.copy_(torch.tensor([[0.6, 0, 0.8, 0], [0, 0.8, 0, 0.6]]))
    for threshold, expected in ((0.5, [True, True]), (0.7, [False, True]), (0.9, [False, False])):
        assert compare_saes(a, b, threshold=threshold).has_twin_a().tolist() == expected
    found = compare_saes(a, b)
    np.testing.assert_allclose(found.pairs.cosine, [0.6, 0.8], rtol=1e-6)
    assert found.summary()["mean_cosine"] == pytest.approx(0.7)
    assert found.summary()["mean_encoder_cosine"] == 0, "encoders of zeros are similar to nothing"


def test_the_assignment_is_the_best_of_all():
    a, b = _sae(3, d_sae=6, d_in=4), _sae(4, d_sae=6, d_in=4)
    cosines = (comparison.unit_rows(a.W_dec) @ comparison.unit_rows(b.W_dec).T).numpy()
    best = max(sum(cosines[i, p[i]] for i in range(6)) for p in itertools.permutations(range(6)))
    found = compare_saes(a, b)
    assert found.pairs.cosine.sum() == pytest.approx(best, rel=1e-5)
    assert sorted(found.pairs.b) == list(range(6))


@pytest.mark.parametrize(("n_a", "n_b"), [(40, 90), (90, 40)])
def test_other_widths_leave_the_rest_alone(n_a, n_b):
    wide = _sae(0, d_sae=90)
    narrow = build_sae("relu", D_IN, 40)
    with torch.no_grad():
        narrow.W_dec.copy_(wide.W_dec[50:])
    a, b = (narrow, wide) if n_a < n_b else (wide, narrow)
    found = compare_saes(a, b)
    assert len(found.pairs.a) == 40 and len(found.nearest_a.cosine) == n_a
    summary = found.summary()
    assert (summary["frac_twins_a"], summary["frac_twins_b"]) == pytest.approx((40 / n_a, 40 / n_b))
    if n_a > n_b:
        assert found.partner(0)["partner"] is None and not found.partner(0)["has_twin"]


@BOTH
def test_blocks_change_nothing(monkeypatch, matching):
    a, b = _sae(0), _sae(1, d_sae=77)
    whole = compare_saes(a, b, max_hungarian=_limit(matching))
    monkeypatch.setattr(comparison, "BLOCK_BYTES", 4 * 77 * 7)  # seven rows at a time
    parts = compare_saes(a, b, max_hungarian=_limit(matching))
    for one, other in ((whole.pairs, parts.pairs), (whole.nearest_a, parts.nearest_a)):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)
    assert np.array_equal(whole.nearest_b.latent, parts.nearest_b.latent)
    cosines = comparison.unit_rows(a.W_dec) @ comparison.unit_rows(b.W_dec).T
    assert np.array_equal(whole.nearest_b.latent, cosines.argmax(0).numpy())


def test_a_row_of_zeros_is_nobodys_twin():
    a, (b, _) = _sae(0), _shuffled(_sae(0))
    with torch.no_grad():
        a.W_dec[5] = 0
    found = compare_saes(a, b)
    assert np.isfinite(found.pairs.cosine).all()
    assert not found.has_twin_a()[5] and found.has_twin_a().sum() == D_SAE - 1


def test_shares_by_firing_rate():
    twins, rate = np.array([True, True, False]), np.array([0.1, 0.3, 0.4])
    assert frac_weighted(twins, rate) == pytest.approx(0.5)
    assert frac_weighted(~twins, rate) == pytest.approx(0.5)
    assert np.isnan(frac_weighted(twins, np.zeros(3)))


def test_what_cannot_be_compared(monkeypatch):
    with pytest.raises(ShapeError, match="32 and 16"):
        compare_saes(_sae(0), _sae(0, d_in=16))
    for threshold in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ConfigError, match="threshold"):
            compare_saes(_sae(0), _sae(1), threshold=threshold)
    monkeypatch.setattr(comparison.psutil, "virtual_memory", lambda: type("m", (), {"available": 1000})())
    with pytest.raises(MemoryShortError, match="max_hungarian"):
        compare_saes(_sae(0), _sae(1))
