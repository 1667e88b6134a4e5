"""Batches: every row once an epoch, held-out documents never, a function of seed and number alone."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from sae_train.activations.sampler import ShuffledBatches, sample_rows
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError

torch.set_num_threads(1)
N_ROWS, CHUNK = 500, 16  # 32 chunks, the last of 4 rows


@pytest.fixture
def store(make_store):
    """Row i is (i, -i, ...), so that a batch says which rows it holds."""
    acts = torch.arange(N_ROWS).float()[:, None] * torch.tensor([1.0, -1.0, 0.5, 2.0])
    with ActivationStore(make_store(acts, chunk_rows=CHUNK)) as opened:
        yield opened


def _batches(store, use, *, batch_size, seed=0, group_chunks=4) -> ShuffledBatches:
    sampler = ShuffledBatches(store, "layers.0", use, batch_size=batch_size, seed=seed, buffer_mb=1)
    assert sampler.group_chunks >= sampler.n_chunks  # a megabyte holds all of this store
    sampler.group_chunks = group_chunks
    return sampler


def _rows(batches, n: int) -> list[list[int]]:
    return [batch[:, 0].long().tolist() for batch in itertools.islice(batches, n)]


def _used() -> np.ndarray:
    use = np.arange(N_ROWS) // 10 % 5 != 3
    use[96:192] = False  # six chunks without any usable row
    return use


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100, 500])
@pytest.mark.parametrize("group_chunks", [1, 4, 32])
def test_every_used_row_exactly_once_an_epoch(store, batch_size, group_chunks):
    use = _used()
    n_used, n_epochs = int(use.sum()), 3
    sampler = _batches(store, use, batch_size=batch_size, group_chunks=group_chunks)
    found = _rows(sampler.from_batch(0), -(-n_used * n_epochs // batch_size))
    assert {len(batch) for batch in found} == {batch_size}  # never a short one, never an empty one
    stream = list(itertools.chain(*found))
    epochs = [stream[e * n_used : (e + 1) * n_used] for e in range(n_epochs)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(np.flatnonzero(use).tolist())
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_larger_than_the_split_is_filled_by_repeats(store):
    use = np.zeros(N_ROWS, dtype=bool)
    use[[3, 99, 400]] = True
    found = _rows(_batches(store, use, batch_size=8, group_chunks=1).from_batch(0), 3)
    assert [len(batch) for batch in found] == [8, 8, 8]
    assert Counter(itertools.chain(*found)) == {3: 8, 99: 8, 400: 8}


def test_held_out_documents_are_never_drawn(store):
    held = store.holdout_rows(0.2, seed=5)
    assert len(np.unique(store.doc_id[held])) == 10
    drawn = set(itertools.chain(*_rows(_batches(store, ~held, batch_size=50).from_batch(0), 30)))
    assert drawn == set(np.flatnonzero(~held).tolist())
    assert not np.array_equal(held, store.holdout_rows(0.2, seed=6))


def test_rows_arrive_unchanged(store):
    batch = next(_batches(store, _used(), batch_size=64).from_batch(0))
    assert torch.equal(batch, batch[:, :1] * torch.tensor([1.0, -1.0, 0.5, 2.0]))


def test_the_seed_decides_the_order(store):
    one, same, other = (_rows(_batches(store, _used(), batch_size=32, seed=s).from_batch(0), 12) for s in (3, 3, 4))
    assert one == same
    assert one != other
    assert sorted(one[0]) != one[0]


@pytest.mark.parametrize("batch_size", [7, 40, 450])
@pytest.mark.parametrize("group_chunks", [1, 4, 32])
def test_a_batch_depends_on_its_number_only(store, batch_size, group_chunks):
    sampler = _batches(store, _used(), batch_size=batch_size, group_chunks=group_chunks)
    n = 40 if batch_size < 400 else 6
    straight = _rows(sampler.from_batch(0), n)
    for index in (1, 2, n - 4):
        assert _rows(sampler.from_batch(index), n - index) == straight[index:]


def test_groups_before_the_cursor_are_not_read(store, monkeypatch):
    read = []
    real = store.chunk
    monkeypatch.setattr(store, "chunk", lambda name, index: read.append(index) or real(name, index))
    batches = _batches(store, _used(), batch_size=10).from_batch(1000)
    next(batches)
    batches.close()  # waits for the reader
    assert 0 < len(read) <= 12  # one group, or two where a batch spans them, and the one that is read ahead


def test_an_empty_split_is_refused(store):
    with pytest.raises(ConfigError, match="empty"):
        _batches(store, np.zeros(N_ROWS, dtype=bool), batch_size=4)


def test_a_sample_holds_usable_rows_of_many_chunks(store):
    use = _used()
    rows = sample_rows(store, "layers.0", use, n_rows=100, seed=0)[:, 0].long().tolist()
    assert len(rows) == len(set(rows)) == 100
    assert use[rows].all()
    assert len({row // CHUNK for row in rows}) >= 6
    assert len(sample_rows(store, "layers.0", use, n_rows=10_000, seed=0)) == use.sum()
