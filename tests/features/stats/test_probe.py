"""Linear probes: a planted direction is found, noise scores chance, folds keep entities whole, the interval covers."""

from __future__ import annotations

import numpy as np
import pytest

import features.stats.probe as probe_module
from features.stats.probe import (
    N_BOOTSTRAP,
    PENALTIES,
    RIDGE_C,
    auroc,
    auroc_interval,
    best_penalty,
    cross_validated_auroc,
    cross_validated_interval,
    cross_validated_scores,
    fit_probe,
    fold_auroc,
)
from sae_train.errors import EntityError
from sae_train.quality.bootstrap import central_range
from sae_train.rng import rng

D_IN, N_ENTITIES, CONTEXTS = 20, 60, 3


def rows(strength: float, seed: int, *, entity_noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise, a shift of `strength` along a fixed direction for the positive half, and a code per entity."""
    rng = np.random.default_rng(seed)
    direction = np.random.default_rng(99).normal(size=D_IN)
    direction /= np.linalg.norm(direction)
    groups = np.repeat(np.arange(N_ENTITIES), CONTEXTS)
    positive = groups < N_ENTITIES // 2
    acts = rng.normal(size=(len(groups), D_IN)) + strength * np.outer(positive, direction)
    acts += entity_noise * rng.normal(size=(N_ENTITIES, D_IN))[groups]
    return acts, positive, groups


def test_auroc_by_counting_pairs():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.5
    a, b = scores[positive], scores[~positive]
    assert auroc(scores, positive) == pytest.approx((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean(), abs=1e-12)


def test_a_planted_direction_is_found_and_noise_is_chance():
    acts, positive, groups = rows(3.0, 0)
    assert cross_validated_auroc(acts, positive, groups) > 0.95
    chance = [cross_validated_auroc(*rows(0.0, seed)) for seed in range(1, 9)]
    assert abs(np.mean(chance) - 0.5) < 0.06
    shuffled = np.random.default_rng(0).permutation(N_ENTITIES)[groups] < N_ENTITIES // 2
    assert cross_validated_auroc(acts, shuffled, groups) < 0.75


def test_entities_stay_whole_so_that_memorised_codes_do_not_count():
    """With a strong code per entity a probe that had seen the entity would score near 1."""
    values = []
    for seed in range(4):
        acts, positive, groups = rows(0.0, seed, entity_noise=5.0)
        values.append(cross_validated_auroc(acts, positive, groups))
        leaky = cross_validated_auroc(acts, positive, np.arange(len(groups)))
        assert leaky > values[-1] + 0.1
    assert abs(np.mean(values) - 0.5) < 0.12


def test_every_row_is_scored_by_a_probe_that_did_not_see_it():
    acts, positive, groups = rows(3.0, 1)
    scores = cross_validated_scores(acts, positive, groups)
    assert np.isfinite(scores).all()
    inside = fit_probe(acts, positive).scores(acts)
    assert not np.allclose(scores, inside)
    assert auroc(inside, positive) > auroc(scores, positive)


def test_probe_scores_are_the_documented_line():
    acts, positive, _ = rows(2.0, 2)
    probe = fit_probe(acts, positive)
    np.testing.assert_allclose(probe.scores(acts), (acts - probe.mean) / probe.std @ probe.weight + probe.bias)
    constant = np.c_[acts, np.full(len(acts), 7.0)]
    assert np.isfinite(fit_probe(constant, positive).scores(constant)).all()


@pytest.mark.parametrize("n", [20, 300])  # fewer rows than dimensions, and more
def test_a_probe_is_the_penalised_logistic_regression(n):
    """At the solution the penalised loss has no slope: sum over rows of w_i (sigmoid(score) - y) z + weight / C = 0."""
    x, y = np.random.default_rng(0).normal(size=(n, 60)), np.arange(n) % 3 == 0
    probe = fit_probe(x, y, c=0.3)
    z, share = (x - probe.mean) / probe.std, y.mean()
    row_weight = np.where(y, 0.5 / share, 0.5 / (1 - share))  # classes weigh the same
    error = row_weight * (1 / (1 + np.exp(-probe.scores(x))) - y)
    assert np.abs(z.T @ error + probe.weight / 0.3).max() < 1e-3 * n
    assert abs(error.sum()) < 1e-3 * n


def test_the_penalty_fits_what_there_is_to_find():
    """A weak direction among many of noise: the strongest penalty; one clean reading: any will do, so the strongest."""
    rng = np.random.default_rng(0)
    positive = np.arange(60) < 30
    noisy = rng.normal(size=(60, 200)) + np.where(positive, 0.3, -0.3)[:, None] * (np.arange(200) < 20)
    weak = best_penalty(noisy, positive, np.arange(60))
    loose, tight = (cross_validated_auroc(noisy, positive, np.arange(60), c=c) for c in (PENALTIES[-1], weak))
    assert tight >= loose
    assert best_penalty(np.where(positive, 1.0, -1.0)[:, None], positive, np.arange(60)) == PENALTIES[0]
    few = np.array([True] * 3 + [False] * 57)
    assert best_penalty(noisy, few, np.arange(60)) == RIDGE_C, "too few to choose by"


def test_one_class_is_refused():
    acts, positive, groups = rows(0.0, 0)
    with pytest.raises(EntityError):
        fit_probe(acts, np.ones(len(acts), dtype=bool))
    with pytest.raises(EntityError):
        cross_validated_scores(acts, positive, np.where(positive, 0, groups))


def test_fold_auroc_averages_inside_folds():
    scores = np.array([1.0, 2.0, 11.0, 12.0, 5.0])
    positive = np.array([False, True, False, True, True])
    folds = np.array([0, 0, 1, 1, 2])
    assert fold_auroc(scores, positive, folds) == 1.0, "each fold is perfect; the one of one class does not count"
    assert auroc(scores, positive) < 1.0, "pooled they are not comparable"
    assert np.isnan(fold_auroc(scores, np.ones(5, dtype=bool), folds))


def test_the_interval_holds_its_figure_and_narrows():
    acts, positive, groups = rows(1.0, 3)
    found = cross_validated_interval(acts, positive, groups)
    assert found.value == pytest.approx(cross_validated_auroc(acts, positive, groups))
    assert found.low < found.value < found.high
    assert cross_validated_interval(acts, positive, groups) == found, "the seed decides"


@pytest.mark.slow
def test_the_interval_covers():
    """AUROC of N(1, 1) against N(0, 1) is Phi(1 / sqrt 2) = 0.7602; a 95 % interval holds it in most of 40 samples.

    Fewer than 32 hits have a probability of about 1 % if it covers in 92 % (percentile bootstraps fall a little short).
    """
    truth, hits = 0.76025, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        positive = np.arange(60) < 30
        scores = rng.normal(size=60) + positive
        interval = auroc_interval(scores, positive, np.arange(60), seed=seed)
        hits += interval.low <= truth <= interval.high
    assert 32 <= hits <= 40


def test_the_interval_draws_entities_not_rows():
    rng = np.random.default_rng(0)
    positive = np.arange(40) < 20
    scores = rng.normal(size=40) + positive
    once = auroc_interval(scores, positive, np.arange(40))
    ten = auroc_interval(np.repeat(scores, 10), np.repeat(positive, 10), np.repeat(np.arange(40), 10))
    rows_as_entities = auroc_interval(np.repeat(scores, 10), np.repeat(positive, 10), np.arange(400))
    width = once.high - once.low
    assert ten.high - ten.low == pytest.approx(width, rel=0.15), "ten copies of a row are no ten entities"
    assert rows_as_entities.high - rows_as_entities.low < 0.6 * width


@pytest.mark.parametrize("at_once", [2_000_000, 1000])
@pytest.mark.parametrize("digits", [9, 0], ids=["", "ties"])
def test_resamples_counted_together_are_those_drawn_one_by_one(digits, at_once, monkeypatch):
    """Groups of one to several rows, equal scores, folds, and resamples in several blocks: the same numbers."""
    monkeypatch.setattr(probe_module, "DRAWN_AT_ONCE", at_once)
    noise = np.random.default_rng(3)
    groups = noise.integers(0, 25, 60)
    positive, folds = groups % 3 == 0, groups % 4
    scores = np.round(noise.normal(size=60) + positive, digits)
    drawn, values = rng("probe.auroc", 5), []
    sides = [[np.flatnonzero(groups == g) for g in np.unique(groups[positive == side])] for side in (False, True)]
    for _ in range(N_BOOTSTRAP):
        picked = np.concatenate([m[i] for m in sides for i in drawn.integers(0, len(m), len(m))])
        values.append(fold_auroc(scores[picked], positive[picked], folds[picked]))
    found = auroc_interval(scores, positive, groups, fold_of=folds, seed=5)
    assert (found.low, found.high) == pytest.approx(central_range(values), abs=1e-12)
    assert found.value == fold_auroc(scores, positive, folds)
