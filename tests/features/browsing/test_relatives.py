"""Similar decoder rows, twins in another SAE, and the logit lens of all latents at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from features.browsing import relatives
from features.browsing.relatives import lens_of, similar_latents, twins_of
from sae_train.errors import ShapeError
from sae_train.lm.logit_lens import logit_lens
from sae_train.run.progress import silent
from sae_train.saes import build_sae


def test_similar_latents_are_the_largest_cosines_but_itself(make_sae, monkeypatch):
    monkeypatch.setattr("sae_train.saes.comparison.BLOCK_BYTES", 4 * 40 * 7)
    sae = make_sae("relu")
    with torch.no_grad():
        sae.W_dec *= torch.rand(40, 1, dtype=torch.float64) + 0.5
    found = similar_latents(sae, 4, silent)
    rows = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    cosines = rows @ rows.T
    cosines.fill_diagonal_(-2)
    best = torch.sort(cosines, dim=1, descending=True)
    np.testing.assert_allclose(found.cosine, best.values[:, :4], atol=1e-6)
    np.testing.assert_array_equal(found.latent, best.indices[:, :4])
    assert similar_latents(build_sae("relu", 3, 2), 4, silent).latent.shape == (2, 1)


def test_a_permuted_half_has_twins_and_the_other_half_has_none():
    sae, other = build_sae("relu", 64, 40), build_sae("relu", 64, 40)
    for seed, one in enumerate((sae, other)):
        one.init_weights(torch.zeros(64), seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sae.W_dec[20] = sae.W_dec[0] + 0.2 * sae.W_dec[30]  # its nearest is nearer to another
        other.W_dec[order[:20]] = sae.W_dec[:20]
    found = twins_of(sae, other, silent)
    assert found.latent[:20].tolist() == order[:20].tolist()
    assert found.latent[20] == order[0] and found.cosine[20] > 0.9
    assert found.has_twin()[:20].all() and not found.has_twin()[20:].any()
    with pytest.raises(ShapeError):
        twins_of(sae, build_sae("relu", 5, 3), silent)


def test_the_lens_of_all_latents_is_that_of_each(world_lm, world_sae, monkeypatch):
    monkeypatch.setattr(relatives, "LENS_BYTES", 4 * 5 * len(world_lm.tokenizer))
    found = lens_of(world_lm, world_sae, 3, silent)
    logits = logit_lens(world_lm, world_sae.W_dec.detach())
    for values, ids, sign in ((found.raised, found.promoted, 1), (found.lowered, found.suppressed, -1)):
        best = sign * torch.sort(sign * logits, dim=1, descending=True).values[:, :3]
        np.testing.assert_allclose(values, best, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits.gather(1, torch.from_numpy(ids)), values, rtol=1e-4, atol=1e-4)
    assert lens_of(world_lm, build_sae("relu", world_lm.d_model + 1, 4), 3, silent) is None
