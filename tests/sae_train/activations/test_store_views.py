"""An activation store in a notebook: slices, rows by number, torch's DataLoader, the table of tokens."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError, HookPointError

N_ROWS, D_IN, CHUNK = 203, 5, 16  # the last chunk is not whole


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(N_ROWS, D_IN, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def store(make_store, rows):
    with ActivationStore(str(make_store(rows, chunk_rows=CHUNK))) as opened:
        yield opened


def test_indexing_is_that_of_an_array(store, rows):
    found, expected = store["layers.0"], rows.numpy()
    assert found.shape == (N_ROWS, D_IN) and len(found) == N_ROWS
    mask = expected[:, 0] > 1
    for index in (
        slice(None),
        slice(10, 40),
        slice(-5, None),
        slice(40, 10),
        slice(190, 5, -7),
        slice(3, 200, 50),
        slice(500, 600),
        7,
        -1,
        np.int64(202),
        [5, 5, 202, -203, 0],
        [],
        np.array([100, 17]),
        mask,
    ):
        part = found[index]
        assert isinstance(part, np.ndarray) and part.dtype == np.float32
        np.testing.assert_array_equal(
            part, expected[index if not (isinstance(index, list) and not index) else slice(0)]
        )
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(np.stack(list(found)), expected)
    for wrong in (N_ROWS, [-N_ROWS - 1], np.array([0, N_ROWS])):
        with pytest.raises(IndexError, match=str(N_ROWS)):
            found[wrong]
    with pytest.raises(HookPointError, match="layers.0"):
        store["layers.3"]


def test_names_of_saelens_mean_the_same(store, rows):
    np.testing.assert_array_equal(store["blocks.0.hook_resid_post"][:3], rows[:3].numpy())


def test_a_loader_reads_every_row_once_in_blocks(store, rows, monkeypatch):
    dataset, read, chunk = store.dataset("layers.0"), [], store.chunk
    monkeypatch.setattr(store, "chunk", lambda name, number: read.append(number) or chunk(name, number))
    loader = DataLoader(dataset, batch_size=32, sampler=dataset.shuffled(seed=3, window_chunks=4))
    batches = list(loader)
    assert [len(b) for b in batches] == [32] * 6 + [N_ROWS - 6 * 32]
    found = torch.cat(batches)
    order = list(dataset.shuffled(seed=3, window_chunks=4))
    assert torch.equal(found, rows[order]) and sorted(order) == list(range(N_ROWS))
    assert len(read) == len(set(read)) == store.n_chunks("layers.0"), "each chunk is read once"
    assert order == list(dataset.shuffled(seed=3, window_chunks=4)) != list(dataset.shuffled(seed=4, window_chunks=4))
    chunks = [i // CHUNK for i in order]
    window = set(chunks[: 3 * CHUNK])  # the last chunk of the file is shorter
    assert len(window) <= 4 < len(set(chunks)), "the first rows come from four chunks"
    assert chunks[:CHUNK] != sorted(chunks[:CHUNK]), "and are mixed"


def test_a_dataset_returns_rows_and_lists_of_rows(store, rows):
    dataset = store.dataset("layers.0")
    assert len(dataset) == N_ROWS
    assert torch.equal(dataset[3], rows[3]) and torch.equal(dataset[2:9:3], rows[2:9:3])
    assert torch.equal(dataset[[4, 1]], rows[[4, 1]])
    assert all(torch.equal(a, b) for a, b in zip(dataset.__getitems__([9, 0]), rows[[9, 0]], strict=True))
    whole = torch.cat(list(DataLoader(dataset, batch_size=50)))
    assert torch.equal(whole, rows)


def test_the_table_says_which_tokens_the_rows_are(store, toy_tokenizer):
    table = store.table(5, 9, tokenizer=toy_tokenizer)
    assert list(table.columns) == ["token_id", "token", "doc_id", "position", "from_entity"]
    assert table.index.tolist() == [5, 6, 7, 8] and table["token_id"].tolist() == [5, 6, 7, 8]
    assert table["token"].tolist() == [toy_tokenizer.decode([i]) for i in range(5, 9)]
    assert len(store.table()) == N_ROWS and store.table(-3).index.tolist() == [200, 201, 202]


def test_a_store_shows_itself_escaped(make_store, rows):
    with ActivationStore(make_store(rows, name="a<b>.h5")) as store:
        html = store._repr_html_()
    assert "203 x 5" in html and "a&lt;b&gt;.h5" in html and "<b>" not in html


def test_a_closed_store_says_so_and_a_forgotten_one_closes(make_store, rows):
    store = ActivationStore(make_store(rows))
    assert store["layers.0"][0].shape == (D_IN,), "no with is needed"
    view = store["layers.0"]
    store.close()
    store.close()
    for use in (lambda: view[0], lambda: store.row_field("doc_id"), lambda: store.dataset("layers.0")[:2]):
        with pytest.raises(ConfigError, match="closed"):
            use()
    forgotten = ActivationStore(store.path)
    closed = weakref.ref(forgotten._file)
    del forgotten
    gc.collect()
    assert closed() is None
