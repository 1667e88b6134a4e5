"""One pass over a store: counts, histograms, examples and companions are those of the whole matrix of latents."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from features import browse
from features.browsing import collect as collecting
from features.browsing import passages as passage_room
from features.browsing.best import BestPerLatent
from features.browsing.cofiring import CofiringSample
from features.browsing.passages import find_passages
from features.browsing.strength import EDGES, N_BINS
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError
from sae_train.run.progress import silent
from sae_train.saes import build_sae

RARE, NEVER, COMMON = 5, 7, 2


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of a few passages, passages of eight tokens."""
    monkeypatch.setattr(collecting, "BATCH_BYTES", 25 * 40 * 4)  # 25 tokens of 40 latents
    for room in (collecting, passage_room):
        monkeypatch.setattr(room, "PASSAGE_TOKENS", 8)


@pytest.fixture
def random_case(make_store):
    """A random SAE on random rows of 40 documents, and its whole matrix of latents."""
    draw = torch.Generator().manual_seed(3)
    acts = torch.randn(400, 12, generator=draw)
    path = make_store(acts, np.arange(400) // 10, position=np.arange(400) % 10, token_id=np.arange(400) % 17)
    sae = build_sae("topk", 12, 40, k=4)
    sae.init_weights(torch.zeros(12), 0)
    sae.hook_point = "layers.0"
    return path, sae, sae.encode(acts).detach().numpy()


def test_a_planted_latent_has_the_contexts_of_its_token_and_exact_counts(planted):
    path, token, strength, sae = planted()
    found = browse(sae, path, n_before=3, n_after=2, progress=silent)
    value = strength - np.float32(0.5)
    assert found.strength.n_fired.tolist() == [int((token == j).sum()) for j in range(8)]
    np.testing.assert_allclose(found.rate(), np.bincount(token, minlength=8) / len(token))
    rare = found.record(RARE)
    assert [(e.doc_id, e.position) for e in rare.top] == [
        (row // 20, row % 20) for row in sorted(np.flatnonzero(token == RARE), key=lambda r: -value[r])
    ]
    for example in rare.top:
        row = example.doc_id * 20 + example.position
        first, last = max(row // 20 * 20, row - 3), min(row // 20 * 20 + 20, row + 3)
        assert example.token_ids == token[first:last].tolist() and example.token_ids[example.peak] == RARE
        np.testing.assert_allclose(example.values, np.where(token[first:last] == RARE, value[first:last], 0))
    assert found.record(NEVER).top == [] and found.is_dead()[NEVER] and found.max()[NEVER] == 0
    for j in range(8):
        mine = value[token == j]
        bins, _ = np.histogram(mine, EDGES)
        np.testing.assert_array_equal(found.strength.histogram[j], bins)
        assert found.mean()[j] == pytest.approx(mine.mean() if len(mine) else 0, rel=1e-6)
        assert found.max()[j] == pytest.approx(mine.max() if len(mine) else 0)


def test_with_shuffled_tokens_a_latent_stands_for_none(planted):
    tokens = {}
    for shuffled in (False, True):
        path, _, _, sae = planted(shuffled=shuffled)
        examples = browse(sae, path, progress=silent).record(COMMON).top
        tokens[shuffled] = {e.token_ids[e.peak] for e in examples}
    assert tokens[False] == {COMMON} and len(tokens[True]) > 2


def test_streaming_gives_what_the_whole_matrix_does(random_case, small_batches):
    path, sae, latents = random_case
    found = browse(sae, path, n_top=5, n_sampled=6, n_before=2, n_after=2, progress=silent)
    passage = np.arange(400) // 10 * 2 + (np.arange(400) % 10 >= 8)
    for j in range(40):
        mine = latents[:, j]
        assert found.strength.n_fired[j] == (mine > 0).sum()
        bins = np.bincount(np.searchsorted(EDGES, mine[mine > 0], side="right") - 1, minlength=N_BINS)
        np.testing.assert_array_equal(found.strength.histogram[j], bins)
        best = {}
        for row in np.argsort(-mine, kind="stable"):
            if mine[row] > 0:
                best.setdefault(passage[row], row)
        rows = list(best.values())[:5]
        assert found.top.row[j].tolist() == rows + [-1] * (5 - len(rows))
        for row, window in zip(rows, found.top.window[j], strict=False):
            near = np.arange(row - 2, row + 3)
            inside = (near >= 0) & (near < 400) & (passage[near.clip(0, 399)] == passage[row])
            np.testing.assert_allclose(window, np.where(inside, mine[near.clip(0, 399)], 0), rtol=1e-4, atol=1e-6)
        drawn = [r for r in found.sampled.row[j] if r >= 0]
        assert len(set(drawn)) == len(drawn) == min(6, (mine > 0).sum()) and (mine[drawn] > 0).all()
        assert (np.diff(mine[drawn]) <= 1e-6).all(), "strongest first"


def test_companions_are_those_of_the_whole_matrix(random_case, monkeypatch):
    monkeypatch.setattr("features.browsing.cofiring.MIN_TOGETHER", 9)
    path, sae, latents = random_case
    found = browse(sae, path, n_neighbours=3, progress=silent).together
    fires = (latents > 0).astype(int)
    both = fires.T @ fires
    jaccard = both / np.maximum(1, fires.sum(0)[:, None] + fires.sum(0) - both)
    jaccard[both < 9] = 0
    np.fill_diagonal(jaccard, 0)
    assert found.n_rows == 400 and (found.latent == -1).any() and (found.latent >= 0).any()
    np.testing.assert_allclose(found.jaccard, np.sort(jaccard, axis=1)[:, ::-1][:, :3], rtol=1e-6)
    for j in range(40):
        for other, value in zip(found.latent[j], found.jaccard[j], strict=True):
            assert (other == -1 and value == 0) or jaccard[j, other] == pytest.approx(value)


def test_companions_of_dense_latents_are_counted_on_fewer_rows(monkeypatch):
    monkeypatch.setattr("features.browsing.cofiring.MAX_PAIRS", 16 * 25)
    sample = CofiringSample(np.arange(100), n_rows=50, seed=0)
    row, latent = (a.ravel() for a in np.meshgrid(np.arange(100), np.arange(4)))
    sample.update(latent, row)
    found = sample.result(4, 2)
    assert found.n_rows == 25 and (found.jaccard == 1).all()


def test_random_examples_are_a_uniform_sample():
    """24 firings, 6 kept: each is kept in a quarter of the draws; five standard deviations of leave."""
    kept: Counter[int] = Counter()
    for seed in range(200):
        best = BestPerLatent(1, 6, 1)
        draw = np.random.default_rng(seed)
        for rows in np.split(np.arange(24), [3, 11, 12]):
            key = draw.random(len(rows), dtype=np.float32)
            best.update(np.zeros(len(rows), int), key, rows, lambda m: np.ones((len(m), 1), np.float32))
        kept.update(best.row[0].tolist())
    expected, spread = 200 * 6 / 24, np.sqrt(200 * 0.25 * 0.75)
    assert set(kept) == set(range(24)) and max(abs(n - expected) for n in kept.values()) < 5 * spread


def test_of_equal_activations_the_first_stays():
    best = BestPerLatent(2, 2, 1)
    for rows in ([7, 9], [11, 12]):
        best.update(
            np.array([1, 1]), np.ones(2, np.float32), np.array(rows), lambda m: np.zeros((len(m), 1), np.float32)
        )
    assert best.row.tolist() == [[-1, -1], [7, 9]]


def test_passages_end_where_the_text_does(make_store):
    fields = {"position": [0, 1, 2, 0, 1, 5, 6, 7, 0, 1], "from_entity": [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]}
    path = make_store(torch.zeros(10, 3), [0, 0, 0, 1, 1, 1, 1, 1, 2, 3], **fields)
    with ActivationStore(path) as store:
        found = find_passages(store)
        part = find_passages(store, max_rows=4)
    pairs = list(zip(found.start.tolist(), found.stop.tolist(), strict=True))
    assert pairs == [(0, 3), (3, 5), (5, 6), (7, 8), (8, 9), (9, 10)] and found.n_tokens == 9
    assert found.rows().tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert list(zip(part.start.tolist(), part.stop.tolist(), strict=True)) == [(0, 3), (3, 4)]
    begin, end = found.window(np.array([1, 4, 7]), 1, 1)
    assert list(zip(begin.tolist(), end.tolist(), strict=True)) == [(0, 3), (3, 5), (7, 8)]


def test_batches_hold_whole_passages_and_every_row_once(make_store):
    acts = torch.arange(60.0)[:, None].repeat(1, 2)
    entity = (np.arange(60) % 13 == 0).astype(int)
    path = make_store(acts, np.arange(60) // 7, from_entity=entity)
    with ActivationStore(path) as store:
        found = find_passages(store)
        batches = list(found.batches(store, "layers.0", 9))
    rows = np.concatenate([b.row for b in batches])
    assert rows.tolist() == np.flatnonzero(entity == 0).tolist()
    seen: set[int] = set()
    for batch in batches:
        np.testing.assert_array_equal(batch.acts[:, 0].numpy(), batch.row)
        assert not seen & set(batch.passage.tolist()) and batch.row[-1] - batch.row[0] < 9
        seen |= set(batch.passage.tolist())


def test_a_store_of_entity_contexts_alone_is_refused(planted):
    path, _, _, sae = planted(from_entity=np.ones(600))
    with pytest.raises(ConfigError, match="running text"):
        browse(sae, path, progress=silent)


def test_a_store_of_one_token(make_store):
    sae = build_sae("relu", 3, 2)
    sae.hook_point = "layers.0"
    found = browse(sae, make_store(torch.zeros(1, 3)), progress=silent)
    assert found.is_dead().all() and found.summary()["frac_dead"] == 1 and SimpleNamespace(**found.summary()).l0 == 0
    assert len(found.table()) == 2 and len(found.examples(0)) == 0
