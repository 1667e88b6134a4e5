"""Absorption and splitting on made-up dictionaries whose truth is known; controls: none built in, no feature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from features.probing.absorption import absorption
from features.probing.splitting import MOST, f1_score, split_of
from sae_train.errors import ConfigError, EntityError
from sae_train.saes import build_sae

D_IN, N_CHILDREN, N_ROWS = 16, 12, 1200  # each child in a 24th of the rows with the parent: too few for a split
SIZE = 3.0  # of a direction that is on


def rows(seed: int = 0) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Return activations along the axes, where the parent (axis 0) is on, and which child (1 to 12; 0: none) is.

    In a third of the rows the parent is on with a child, in a third without, in a third neither is.
    """
    draw = np.random.default_rng(seed)
    acts = torch.from_numpy(draw.normal(scale=0.1, size=(N_ROWS, D_IN)).astype(np.float32))
    kind = draw.permutation(np.arange(N_ROWS) % 3)
    child = np.where(kind == 2, 1 + draw.integers(0, N_CHILDREN, N_ROWS), 0)
    acts[:, 0] += torch.from_numpy(SIZE * (kind > 0)).float()
    for number in range(1, N_CHILDREN + 1):
        acts[:, number] += torch.from_numpy(SIZE * (child == number)).float()
    return acts, kind > 0, child


def dictionary(absorbing: tuple[int, ...] = ()):
    """Return an SAE of the directions; the latent of an absorbing child writes the parent, whose latent is off."""
    sae = build_sae("relu", D_IN, 15)
    with torch.no_grad():
        for latent in range(N_CHILDREN + 1):
            sae.W_enc[latent, latent] = sae.W_dec[latent, latent] = 1.0
            sae.b_enc[latent] = -1.0
        for child in absorbing:
            sae.W_enc[child, 0] = -2.0
            sae.W_dec[child, 0] = 1.0
            sae.W_dec[child] /= sae.W_dec[child].norm()
            sae.W_enc[child, child] *= 2**0.5
    return sae


@pytest.mark.parametrize("absorbing", [(1, 3), (2, 5, 7)])
def test_absorption_that_is_built_in_is_found(absorbing):
    acts, is_on, child = rows()
    found = absorption(dictionary(absorbing), acts, is_on, np.arange(N_ROWS))
    share = np.isin(child[is_on], absorbing).mean()
    assert found.probe.low > 0.95 and found.split.latents[0] == 0
    assert set(found.absorbers) == set(absorbing)
    assert found.absorbed == found.missed and found.absorbed.low < share < found.absorbed.high
    assert found.absorbed.low > 0.03 and found.split.n == 1
    truly = absorption(dictionary(absorbing), acts, is_on, np.arange(N_ROWS), direction=np.eye(D_IN)[0])
    assert truly.absorbed.value == pytest.approx(found.absorbed.value, abs=0.02)


def test_where_none_is_built_in_none_is_found():
    acts, is_on, _ = rows()
    found = absorption(dictionary(), acts, is_on, np.arange(N_ROWS))
    assert found.absorbed.value == found.missed.value == 0 and found.absorbers == {} and found.split.n == 1
    assert 0 < found.absorbed.high < 0.05, "no case among so many rows excludes no small share"


def test_a_feature_that_is_missed_is_not_absorbed_by_latents_that_write_something_else():
    acts, is_on, child = rows()
    sae = dictionary((1,))
    with torch.no_grad():
        sae.W_dec[1] = torch.eye(D_IN)[1]
    found = absorption(sae, acts, is_on, np.arange(N_ROWS))
    assert found.missed.low > 0.01 and found.absorbed.value == 0


def test_a_latent_that_is_always_on_absorbs_nothing():
    acts, is_on, _ = rows()
    sae = dictionary((1,))
    with torch.no_grad():
        sae.W_dec[1] = torch.eye(D_IN)[1]
        sae.b_enc[14] = 5.0
        sae.W_dec[14, 0] = 1.0
    assert absorption(sae, acts, is_on, np.arange(N_ROWS)).absorbed.value == 0


def test_labels_that_mean_nothing_have_no_share():
    acts, is_on, _ = rows()
    shuffled = np.random.default_rng(1).permutation(is_on)
    found = absorption(dictionary((1,)), acts, shuffled, np.arange(N_ROWS))
    assert found.probe.low < 0.5 < found.probe.high and np.isnan(found.absorbed.value) and not found.absorbers


def test_what_cannot_be_judged_is_refused(make_sae):
    acts, is_on, _ = rows()
    with pytest.raises(EntityError, match="3 groups"):
        absorption(dictionary(), acts, is_on, np.arange(N_ROWS) % 3)
    sae = dictionary()
    sae.target_hook_point = "layers.1"
    with pytest.raises(ConfigError):
        absorption(sae, acts, is_on, np.arange(N_ROWS))


@pytest.mark.parametrize("n_parts", [1, 2, 4])
def test_a_feature_is_split_over_as_many_latents_as_it_is_in(n_parts):
    draw = np.random.default_rng(0)
    n = 800
    is_on = draw.random(n) < 0.4
    part = draw.integers(0, n_parts, n)
    latents = (draw.random((n, 12)) < 0.05) * draw.random((n, 12))
    for number in range(n_parts):
        latents[:, 3 + number] = is_on * (part == number) * (1 + draw.random(n))
    found = split_of(latents, is_on, np.arange(n))
    assert sorted(found.latents) == list(range(3, 3 + n_parts)) and len(found.f1) == MOST
    assert found.f1[n_parts - 1] > 0.9
    by_chance = split_of(latents, draw.permutation(is_on), np.arange(n))
    assert max(by_chance.f1) < 0.6 < found.f1[n_parts - 1]


def test_f1_is_scikit_learns():
    from sklearn.metrics import f1_score as theirs

    draw = np.random.default_rng(2)
    said, there = draw.random(50) < 0.3, draw.random(50) < 0.5
    assert f1_score(said, there) == pytest.approx(theirs(there, said))
    assert f1_score(np.zeros(3, bool), np.zeros(3, bool)) == 0
