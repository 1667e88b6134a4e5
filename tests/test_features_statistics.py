"""Every statistic against plain scipy, one latent at a time; a planted latent is found, and not after it is removed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from features.entities import Entity
from features.hypothesis_tests import fisher_p, q_values, rank_test
from features.probe import auroc
from features.selection import SelectionRule, select, selected_score, split_entities
from features.separation import EntityLatents, Separation, entity_latents, mean_by_group, separation
from sae_train.errors import EntityError
from sae_train.saes.relu import ReluSae

TOLERANCE = 1e-9  # both sides are float64; they differ by the order of a few additions
N_TYPES, PER_CELL, CONTEXTS, D_IN = 3, 16, 3, 12
PLANTED = 4


def random_latents(n: int, d_sae: int, seed: int) -> EntityLatents:
    """Entities with sparse latents, ties and constant columns among them."""
    rng = np.random.default_rng(seed)
    share = rng.integers(0, 4, (n, d_sae)) / 3 * (rng.random((n, d_sae)) < rng.random(d_sae))
    value = (share * rng.integers(1, 5, (n, d_sae))).astype(np.float32)
    share[:, 0], value[:, 0] = 0.0, 0.0
    share[:, 1], value[:, 1] = 1.0, 2.0
    return EntityLatents(share.astype(np.float32), value, rng.normal(size=(n, d_sae)).astype(np.float32))


def classes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(n) < 0.4, rng.integers(0, N_TYPES, n)


@pytest.fixture(scope="module")
def scored() -> tuple[EntityLatents, np.ndarray, np.ndarray, Separation]:
    latents, (known, kind) = random_latents(90, 40, 1), classes(90, 2)
    return latents, known, kind, separation(latents, known, kind, N_TYPES)


def test_separation_and_maxmin_one_latent_at_a_time(scored):
    latents, known, kind, found = scored
    for j in range(40):
        share = latents.fire_share[:, j].astype(float)
        gaps = []
        for t in range(N_TYPES):
            f_known, f_unknown = share[known & (kind == t)].mean(), share[~known & (kind == t)].mean()
            assert found.freq[0, t, j] == pytest.approx(f_known, abs=TOLERANCE)
            assert found.freq[1, t, j] == pytest.approx(f_unknown, abs=TOLERANCE)
            gaps.append(f_known - f_unknown)
        assert found.score[j] == pytest.approx(share[known].mean() - share[~known].mean(), abs=TOLERANCE)
        assert found.maxmin_known[j] == pytest.approx(min(gaps), abs=TOLERANCE)
        assert found.maxmin_unknown[j] == pytest.approx(min(-g for g in gaps), abs=TOLERANCE)


def test_the_interval_is_welchs(scored):
    latents, known, _, found = scored
    for j in range(2, 40):
        a, b = latents.fire_share[known, j].astype(float), latents.fire_share[~known, j].astype(float)
        plain = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert (found.low[j], found.high[j]) == pytest.approx((plain.low, plain.high), abs=1e-8)


def test_auroc_and_p_one_latent_at_a_time(scored):
    latents, known, _, found = scored
    for j in range(2, 40):
        a, b = latents.value[known, j].astype(float), latents.value[~known, j].astype(float)
        pairs = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
        assert found.auroc[j] == pytest.approx(pairs, abs=TOLERANCE)
        rank = stats.mannwhitneyu(a, b, alternative="two-sided", method="asymptotic").pvalue
        fires = [(latents.fire_share[side, j] >= 0.5) for side in (known, ~known)]
        table = [[f.sum(), (~f).sum()] for f in fires]
        tails = [stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]
        assert found.p_value[j] == pytest.approx(max(rank, min(1.0, 2 * min(tails))), abs=TOLERANCE)


def test_constant_latents_say_nothing(scored):
    found = scored[3]
    assert found.auroc[:2].tolist() == [0.5, 0.5]
    assert found.p_value[:2].tolist() == [1.0, 1.0]
    assert found.score[:2].tolist() == [0.0, 0.0]
    assert np.isfinite(found.low).all()


def test_fisher_known_answers():
    def table(a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(10)[:, None] < a, np.arange(12)[:, None] < b

    assert fisher_p(*table(0, 0))[0] == 1.0
    assert fisher_p(*table(10, 12))[0] == 1.0
    # All 10 known fire and none of 12 unknown: one table of C(22, 10) is that extreme on one side.
    assert fisher_p(*table(10, 0))[0] == pytest.approx(2 / 646646, rel=1e-9)
    assert fisher_p(*table(0, 12))[0] == pytest.approx(2 / 646646, rel=1e-9)


def test_rank_test_is_antisymmetric():
    rng = np.random.default_rng(3)
    a, b = rng.normal(1, 1, (20, 5)), rng.normal(0, 1, (25, 5))
    (forth, p), (back, same) = rank_test(a, b), rank_test(b, a)
    np.testing.assert_allclose(forth, 1 - back, atol=TOLERANCE)
    np.testing.assert_allclose(p, same, atol=TOLERANCE)


def test_benjamini_hochberg_against_the_definition():
    p = np.random.default_rng(0).random((4, 25)) ** 3
    order = np.sort(p.ravel())
    plain = [min(order[j] * p.size / (j + 1) for j in range(p.size) if order[j] >= value) for value in p.ravel()]
    np.testing.assert_allclose(q_values(p).ravel(), np.minimum(1, plain), atol=TOLERANCE)
    assert q_values(p).shape == p.shape
    assert (q_values(p) >= p).all()


def test_auroc_of_one_vector_is_that_of_all():
    latents, (known, _) = random_latents(60, 10, 5), classes(60, 6)
    many, _ = rank_test(latents.value[known], latents.value[~known])
    for j in range(2, 10):
        assert auroc(latents.value[:, j], known) == pytest.approx(many[j], abs=TOLERANCE)


def test_mean_by_group():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 0.0]])
    torch.testing.assert_close(mean_by_group(rows, np.array([1, 1, 0]), 2), torch.tensor([[10.0, 0.0], [2.0, 3.0]]))


# --------------------------------------------------------------------------------------------- a planted latent


def make_entities() -> list[Entity]:
    return [
        Entity(f"{label}{t}{i}", f"type{t}", label=label)
        for t in range(N_TYPES)
        for label in ("known", "unknown")
        for i in range(PER_CELL)
    ]


def identity_sae() -> ReluSae:
    """latent j is activation j, where it is above 0.5."""
    sae = ReluSae(D_IN, D_IN)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D_IN))
        sae.W_dec.copy_(torch.eye(D_IN))
        sae.b_enc.fill_(-0.5)
    return sae


def planted_acts(entities: list[Entity], *, strength: float, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Noise in every dimension, and at unknown entities `strength` more in dimension PLANTED."""
    generator = torch.Generator().manual_seed(seed)
    entity = np.repeat(np.arange(len(entities)), CONTEXTS)
    acts = 0.5 * torch.randn(len(entity), D_IN, generator=generator)
    unknown = torch.tensor([entities[i].label == "unknown" for i in entity])
    acts[unknown, PLANTED] += strength
    return acts, entity


def mine(acts: torch.Tensor, entity: np.ndarray, entities: list[Entity], labels: np.ndarray) -> tuple[dict, Separation]:
    latents = entity_latents(identity_sae(), acts, entity, len(entities))
    kind = np.array([int(e.type[-1]) for e in entities])
    found = separation(latents, labels, kind, N_TYPES)
    return select(found, q_values(found.p_value), None, SelectionRule()), found


def test_a_planted_latent_is_found_and_not_after_it_is_removed():
    entities = make_entities()
    known = np.array([e.label == "known" for e in entities])
    acts, entity = planted_acts(entities, strength=2.0, seed=0)
    chosen, found = mine(acts, entity, entities, known)
    assert chosen == {"known": [], "unknown": [PLANTED]}
    assert found.maxmin_unknown[PLANTED] > 0.5
    assert found.auroc[PLANTED] < 0.1, "its values are lower at known entities"
    mirrored, _ = mine(acts, entity, entities, ~known)
    assert mirrored == {"known": [PLANTED], "unknown": []}
    removed = acts.clone()
    removed[:, PLANTED] = planted_acts(entities, strength=0.0, seed=1)[0][:, PLANTED]
    assert mine(removed, entity, entities, known)[0] == {"known": [], "unknown": []}


def test_a_latent_that_is_silent_in_one_type_is_no_latent_of_knowledge():
    entities = make_entities()
    known = np.array([e.label == "known" for e in entities])
    acts, entity = planted_acts(entities, strength=0.0, seed=2)
    only = np.array([e.type != "type0" and e.label == "unknown" for e in entities])[entity]
    acts[torch.from_numpy(only), PLANTED] += 5.0
    chosen, found = mine(acts, entity, entities, known)
    assert q_values(found.p_value)[PLANTED] < 0.05, "it separates the classes as a whole"
    assert chosen["unknown"] == [], "and yet says nothing in one of three types"


def test_shuffled_labels_find_nothing():
    entities = make_entities()
    acts, entity = planted_acts(entities, strength=2.0, seed=3)
    known = np.array([e.label == "known" for e in entities])
    assert (q_values(mine(acts, entity, entities, known)[1].p_value) < 0.05).any()
    silent = 0
    for seed in range(20):
        shuffled = np.random.default_rng(seed).permutation(known)
        silent += not (q_values(mine(acts, entity, entities, shuffled)[1].p_value) < 0.05).any()
    assert silent >= 19


def test_selection_obeys_every_bound():
    n = 6
    zeros = np.zeros(n)
    scores = Separation(
        freq=np.zeros((2, 1, n)),
        score=zeros,
        low=zeros,
        high=zeros,
        maxmin_known=np.array([0.9, 0.5, 0.7, 0.1, 0.09, 0.7]),
        maxmin_unknown=np.full(n, -1.0),
        auroc=zeros,
        p_value=zeros,
    )
    q = np.array([0.01, 0.05, 0.01, 0.01, 0.01, 0.01])
    assert select(scores, q, None, SelectionRule())["known"] == [0, 2, 5, 1, 3], (
        "bounds count as passing, ties in order"
    )
    assert select(scores, q, None, SelectionRule(top=2))["known"] == [0, 2]
    assert select(scores, q, None, SelectionRule(max_q=0.02))["known"] == [0, 2, 5, 3]
    rate = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.03])
    assert select(scores, q, rate, SelectionRule())["known"] == [2, 1, 3]
    assert select(scores, q, rate, SelectionRule(max_general_rate=1.0))["known"] == [0, 2, 5, 1, 3]


def test_selected_score_adds_known_and_subtracts_unknown():
    value = np.array([[2.0, 0.0, 3.0], [0.0, 4.0, 0.0]], dtype=np.float32)
    latents = EntityLatents(value, value, value)
    found = selected_score(latents, {"known": [0], "unknown": [1]}, np.array([2.0, 4.0, 1.0], dtype=np.float32))
    assert found.tolist() == [1.0, -1.0]


# --------------------------------------------------------------------------------------------- the held-out split


def test_the_split_is_balanced_per_type_and_label():
    entities = [*make_entities(), Entity("odd", "type0", label="known")]
    held = split_entities(entities, 0)
    for t in range(N_TYPES):
        for label in ("known", "unknown"):
            cell = [h for h, e in zip(held, entities, strict=True) if (e.type, e.label) == (f"type{t}", label)]
            assert sum(cell) == len(cell) // 2
    assert (split_entities(entities, 0) == held).all()
    assert (split_entities(entities, 1) != held).any()


def test_too_few_entities_are_refused_with_the_half_and_the_count():
    entities = [Entity(f"k{i}", "t", label="known") for i in range(8)] + [
        Entity(f"u{i}", "t", label="unknown") for i in range(3)
    ]
    with pytest.raises(EntityError, match="unknown entities in the held-out half") as caught:
        split_entities(entities, 0)
    assert caught.value.got == "1"
    assert split_entities([*entities, replace(entities[-1], name="u3")], 0).sum() == 6
