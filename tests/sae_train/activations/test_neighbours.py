"""Rows with their neighbours: whole windows of one document, found wherever they lie, each once when shuffled."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from sae_train.activations import layout
from sae_train.activations.neighbours import neighbours
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError, HookPointError
from sae_train.storage import h5

torch.set_num_threads(1)
N = 300


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Twelve documents of 25 rows in pieces of five, the pieces shuffled in the file; row i is (i, i, i, i)."""
    monkeypatch.setattr(h5, "CHUNK_BYTES", 16 * 4 * 4)
    pieces = np.random.default_rng(3).permutation(N // 5)
    places = (pieces[:, None] * 5 + np.arange(5)).ravel()
    position = (places % 25).astype(np.int32)
    position[position >= 12] += 1  # a token that is no row stands in the middle of every document
    fields = {"token_id": places.astype(np.int32), "doc_id": (places // 25).astype(np.int32), "position": position}
    fields["from_entity"] = np.zeros(N, np.uint8)
    attrs = {"model": "synthetic", "hook_points": ["layers.0"], "dtype": "float32", "n_rows": N, "complete": False}
    with h5.create(tmp_path / "a.h5", layout.SCHEMA, layout.VERSION, {**attrs, "rows_committed": 0}) as file:
        layout.write_row_fields(file, lambda name: [fields[name]], N)
        layout.allocate_acts(file, ("layers.0",), N, 4, "float32")
        writer = layout.RowWriter(file, ("layers.0",), "float32")
        writer.add({"layers.0": torch.arange(N).float()[:, None].expand(N, 4)})
        writer.commit(is_last=True)
        layout.finish(file)
    with ActivationStore(tmp_path / "a.h5") as opened:
        yield opened


def _by_hand(store, before: int, after: int, use=None) -> list[list[int]]:
    """Look for every neighbour in every row."""
    at = {key: row for row, key in enumerate(zip(store.doc_id, store.row_field("position"), strict=True))}
    use = np.ones(store.n_rows, dtype=bool) if use is None else use
    found = []
    for (doc, position), row in sorted(at.items(), key=lambda item: item[1]):
        window = [at.get((doc, position + o)) for o in range(-before, after + 1)]
        if all(r is not None and use[r] for r in window):
            assert window[before] == row
            found.append(window)
    return found


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (0, 1), (2, 1), (11, 0), (5, 6)])
def test_windows_are_those_of_a_search_through_all_rows(store, before, after):
    windows = store.windows("layers.0", before=before, after=after)
    expected = _by_hand(store, before, after)
    assert windows.rows.tolist() == expected and len(windows) == len(expected) > 10
    assert len(windows) == 12 * (12 - before - after + 1 + 12 - before - after)
    assert torch.equal(windows[3], torch.tensor(expected[3]).float()[:, None].expand(-1, 4))
    held_out = store.holdout_rows(0.25, 0)
    some = store.windows("layers.0", before=before, after=after, use=~held_out)
    assert some.rows.tolist() == _by_hand(store, before, after, ~held_out)
    assert len(some) == len(windows) * 9 // 12


def test_an_epoch_has_every_window_once_in_the_seeds_order_from_all_over_the_file(store):
    windows = store.windows("layers.0", before=2, after=1)

    def epoch(seed: int) -> list[list[int]]:
        loader = DataLoader(windows, batch_size=16, sampler=windows.shuffled(seed=seed, window_chunks=4))
        return [window[:, 0].long().tolist() for batch in loader for window in batch]

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert sorted(first) == sorted(windows.rows.tolist())
    assert first == again != other
    documents = [set(store.doc_id[np.array(first[i : i + 16])[:, 0]]) for i in range(0, 160, 16)]
    assert min(map(len, documents)) >= 5  # a batch is of many documents


def test_documents_in_one_piece_need_no_second_chunk():
    doc_id, position = np.repeat([0, 1], 4), np.tile(np.arange(4), 2)
    found = neighbours(doc_id, position, before=1, after=1)
    assert found.tolist() == [[0, 1, 2], [1, 2, 3], [4, 5, 6], [5, 6, 7]]
    assert neighbours(doc_id, position, before=4, after=0).shape == (0, 5)
    assert list(itertools.chain(*neighbours(doc_id, position, before=0, after=0))) == list(range(8))


def test_impossible_windows_are_refused(store):
    with pytest.raises(ConfigError, match="before"):
        store.windows("layers.0", before=-1)
    with pytest.raises(ConfigError, match="neighbours"):
        store.windows("layers.0", before=20)
    with pytest.raises(HookPointError):
        store.windows("layers.9")
