"""Every statistic against plain scipy, one latent at a time; a planted latent is found, and not after it is removed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_array

from features.config import SelectionRule
from features.entities.entities import Entity
from features.stats.hypothesis_tests import fisher_p, q_values, rank_test, stratified_rank_test
from features.stats.intervals import wilson
from features.stats.permutation import family_p, maxmin_null, shuffled_labels
from features.stats.probe import auroc
from features.stats.selection import allowed_latents, select, split_entities
from features.stats.separation import EntityLatents, Separation, entity_latents, group_matrix, name_latents, separation
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
    return EntityLatents(csr_array(share), csr_array(value.astype(np.float64)))


def dense(latents: EntityLatents) -> tuple[np.ndarray, np.ndarray]:
    return latents.frac_firing.toarray(), latents.value.toarray()


def classes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(n) < 0.4, rng.integers(0, N_TYPES, n)


@pytest.fixture(scope="module")
def scored() -> tuple[EntityLatents, np.ndarray, np.ndarray, Separation]:
    latents, (known, kind) = random_latents(90, 40, 1), classes(90, 2)
    return latents, known, kind, separation(latents, known, kind, N_TYPES)


def test_separation_and_maxmin_one_latent_at_a_time(scored):
    latents, known, kind, found = scored
    shares, _ = dense(latents)
    for j in range(40):
        share = shares[:, j]
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
    share, _ = dense(latents)
    for j in range(2, 40):
        a, b = share[known, j], share[~known, j]
        plain = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert (found.low[j], found.high[j]) == pytest.approx((plain.low, plain.high), abs=TOLERANCE)


def test_auroc_and_p_one_latent_at_a_time(scored):
    latents, known, _, found = scored
    share, value = dense(latents)
    for j in range(2, 40):
        a, b = value[known, j], value[~known, j]
        pairs = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
        assert found.auroc[j] == pytest.approx(pairs, abs=TOLERANCE)
        rank = stats.mannwhitneyu(a, b, alternative="two-sided", method="asymptotic").pvalue
        fires = [share[side, j] >= 0.5 for side in (known, ~known)]
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
    def p(a: int, b: int) -> float:
        return float(fisher_p(np.array([float(a)]), np.array([float(b)]), 10, 12)[0])

    assert p(0, 0) == p(10, 12) == 1.0
    # All 10 known fire and none of 12 unknown: one table of C(22, 10) is that extreme on one side.
    assert p(10, 0) == pytest.approx(2 / 646646, rel=1e-9)
    assert p(0, 12) == pytest.approx(2 / 646646, rel=1e-9)


def test_rank_test_takes_values_of_either_sign():
    """Zeros lie between negative and positive values, and need not be stored as absent."""
    rng = np.random.default_rng(3)
    x, known = rng.integers(-2, 3, (45, 6)).astype(float), rng.random(45) < 0.4
    stored = csr_array((x.ravel(), (np.repeat(np.arange(45), 6), np.tile(np.arange(6), 45))), shape=(45, 6))
    for matrix in (csr_array(x), stored):
        found = rank_test(matrix, known)
        plain = stats.mannwhitneyu(x[known], x[~known], method="asymptotic", axis=0)
        np.testing.assert_allclose(found.auroc, plain.statistic / (known.sum() * (~known).sum()), atol=TOLERANCE)
        np.testing.assert_allclose(found.p_value, plain.pvalue, atol=TOLERANCE)
    back = rank_test(csr_array(x), ~known)
    np.testing.assert_allclose(back.auroc, 1 - found.auroc, atol=TOLERANCE)


def test_strata_of_one_latent_by_hand():
    """Van Elteren: weights 1 / (N_h + 1) on Mann-Whitney's U of each stratum, one column at a time."""
    rng = np.random.default_rng(4)
    x, known, stratum = rng.integers(0, 4, (80, 5)).astype(float), rng.random(80) < 0.5, rng.integers(0, 4, 80)
    known[stratum == 3] = True  # says nothing
    found = stratified_rank_test(csr_array(x), known, stratum)
    for j in range(5):
        total = pairs = variance = 0.0
        for h in range(3):
            a, b = x[known & (stratum == h), j], x[~known & (stratum == h), j]
            w, n = 1 / (len(a) + len(b) + 1), len(a) + len(b)
            total += w * stats.mannwhitneyu(a, b).statistic
            pairs += w * len(a) * len(b)
            variance += w**2 * len(a) * len(b) * stats.tiecorrect(stats.rankdata(np.r_[a, b])) * (n + 1) / 12
        assert found.auroc[j] == pytest.approx(total / pairs, abs=TOLERANCE)
        assert found.p_value[j] == pytest.approx(
            2 * stats.norm.sf(abs(total - pairs / 2) / variance**0.5), abs=TOLERANCE
        )
    nothing = stratified_rank_test(csr_array(x), known, np.arange(80))
    assert np.isnan(nothing.auroc).all() and (nothing.p_value == 1).all()


def test_wilson_against_scipy():
    for hits, n in ((0, 10), (3, 10), (2_000, 100_000), (10, 10)):
        plain = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(np.array([float(hits)]), n)[:, 0] == pytest.approx((plain.low, plain.high), abs=TOLERANCE)


def test_the_null_is_that_of_one_shuffle_at_a_time(scored):
    latents, known, kind, _ = scored
    labels = shuffled_labels(known, kind, 30, 0)
    share = dense(latents)[0]
    allowed = np.arange(40) % 3 > 0
    null = maxmin_null(latents.frac_firing, labels, kind, allowed)
    for shuffle, row in enumerate(labels):
        assert all(row[kind == t].sum() == known[kind == t].sum() for t in range(N_TYPES)), "inside each type"
        gaps = np.array([share[row & (kind == t)].mean(0) - share[~row & (kind == t)].mean(0) for t in range(N_TYPES)])
        assert null[0, shuffle] == pytest.approx(gaps.min(0)[allowed].max(), abs=TOLERANCE)
        assert null[1, shuffle] == pytest.approx((-gaps).min(0)[allowed].max(), abs=TOLERANCE)
    assert (shuffled_labels(known, kind, 30, 0) == labels).all()
    np.testing.assert_allclose(family_p(np.array([9.0, -9.0]), null[0]), [1 / 31, 1])


def test_benjamini_hochberg_against_the_definition():
    p = np.random.default_rng(0).random((4, 25)) ** 3
    order = np.sort(p.ravel())
    plain = [min(order[j] * p.size / (j + 1) for j in range(p.size) if order[j] >= value) for value in p.ravel()]
    np.testing.assert_allclose(q_values(p).ravel(), np.minimum(1, plain), atol=TOLERANCE)
    assert q_values(p).shape == p.shape
    assert (q_values(p) >= p).all()


def test_auroc_of_one_vector_is_that_of_all():
    latents, (known, _) = random_latents(60, 10, 5), classes(60, 6)
    many = rank_test(latents.value, known).auroc
    for j in range(2, 10):
        assert auroc(dense(latents)[1][:, j], known) == pytest.approx(many[j], abs=TOLERANCE)


def test_names_are_encoded_in_blocks_and_averaged_by_entity(monkeypatch):
    """Small blocks, contexts in any order: what the SAE says of each context, and plain means of it."""
    generator = torch.Generator().manual_seed(0)
    acts, entity = torch.randn(50, D_IN, generator=generator), np.random.default_rng(0).permutation(np.arange(50) % 7)
    group = np.array([0, 1, -1, 0, 1, 1, -1])
    monkeypatch.setattr("features.stats.separation.BLOCK_BYTES", 4 * D_IN * 9)
    found = name_latents(identity_sae(), acts, entity, group, 2)
    pre_acts = identity_sae().pre_acts(acts).detach().double().numpy()
    np.testing.assert_allclose(found.contexts.toarray(), np.maximum(pre_acts, 0), atol=1e-6)
    per_entity = np.stack([pre_acts[entity == e].mean(0) for e in range(7)])
    for g in range(2):
        np.testing.assert_allclose(found.pre_act_mean[g], per_entity[group == g].mean(0), atol=1e-6)
        np.testing.assert_allclose(found.pre_act_std[g], per_entity[group == g].std(0), atol=1e-6)
    use = entity != 3
    latents = entity_latents(found.contexts, entity, 7, use)
    share, value = dense(latents)
    np.testing.assert_allclose(value[2], np.maximum(pre_acts[entity == 2], 0).mean(0), atol=1e-6)
    np.testing.assert_allclose(share[2], (pre_acts[entity == 2] > 0).mean(0), atol=1e-6)
    assert not share[3].any(), "no context of it is used"
    assert group_matrix(group, 2).sum() == 5


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
    contexts = csr_array(identity_sae().encode(acts).detach().numpy())
    latents = entity_latents(contexts, entity, len(entities))
    kind = np.array([int(e.type[-1]) for e in entities])
    found = separation(latents, labels, kind, N_TYPES)
    shuffles = shuffled_labels(labels, kind, 200, 0)
    null = maxmin_null(latents.frac_firing, shuffles, kind, np.ones(D_IN, bool))
    null_p = {d: family_p(np.array([found.maxmin(d).max()]), null[i])[0] for i, d in enumerate(("known", "unknown"))}
    return select(found, q_values(found.p_value), np.ones(D_IN, bool), SelectionRule(), null_p), found


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
    everything = np.ones(n, dtype=bool)

    def known(allowed: np.ndarray = everything, null_p: float = 0.01, **settings) -> list[int]:
        found = select(scores, q, allowed, SelectionRule(**settings), {"known": null_p, "unknown": 1.0})
        assert found["unknown"] == []
        return found["known"]

    assert known() == [0, 2, 5, 1, 3], "bounds count as passing, ties in order"
    assert known(top=2) == [0, 2]
    assert known(max_q=0.02) == [0, 2, 5, 3]
    assert known(null_p=0.06) == [], "the best does no better than the best under shuffled labels"
    low = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.021])
    assert known(allowed_latents(low, n, SelectionRule())) == [2, 1, 3], "their interval lies above 2 %"
    assert allowed_latents(low, n, SelectionRule(max_general_rate=1.0)).all()
    assert allowed_latents(None, n, SelectionRule()).all(), "not measured"


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
