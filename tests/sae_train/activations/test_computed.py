"""Activations that are computed when they are read: the rows of the store, mixed as well, the same after a kill."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sae_train import cache_activations, computed_activations
from sae_train.activations.joined import joined_rows
from sae_train.activations.sampler import ShuffledBatches
from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, HookPointError
from sae_train.lm.models import load_lm
from sae_train.quality.evaluate import used_blocks
from sae_train.run.progress import silent
from sae_train.saes.interop import WEIGHTS
from sae_train.training.jobs import train_one

torch.set_num_threads(1)
NAMES = ("layers.0", "layers.1.mlp")
TEXTS = [f"The city of Velmora lies on the river Ost. {'Its harbour is old. ' * (n % 5)}Number {n}." for n in range(40)]
SETTINGS = {"ctx_len": 24, "batch_size": 4, "dtype": "float32"}


@pytest.fixture(scope="module")
def lm(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.fixture
def computed(lm):
    return computed_activations(lm, TEXTS, NAMES, **SETTINGS)


def _count_windows(store, monkeypatch) -> list[int]:
    """Return a list that grows by the numbers of the windows that the model reads."""
    seen: list[int] = []
    run = store._runner.windows
    monkeypatch.setattr(store._runner, "windows", lambda windows: (seen.extend(windows), run(windows))[1])
    return seen


def test_rows_are_those_of_the_store_in_drawn_order_of_windows(lm, computed, tmp_path):
    with cache_activations(lm, TEXTS, NAMES, out=tmp_path / "a.h5", progress=silent, **SETTINGS) as store:
        assert computed.n_rows == store.n_rows > 400
        mine, theirs = (np.lexsort((s.row_field("position"), s.doc_id)) for s in (computed, store))
        for field in ("token_id", "doc_id", "position", "from_entity"):
            assert np.array_equal(computed.row_field(field)[mine], store.row_field(field)[theirs])
        for name in NAMES:
            # Windows are padded to the longest of other neighbours: equal but for the order of addition.
            np.testing.assert_allclose(computed[name][:][mine], store[name][:][theirs], rtol=1e-4, atol=1e-5)
        held_out = computed.holdout_rows(0.2, 3)
        assert set(computed.doc_id[held_out]) == set(store.doc_id[store.holdout_rows(0.2, 3)])
        assert not np.array_equal(computed.doc_id, store.doc_id)
    assert np.abs(computed["layers.0"][:]).max() > 0.01


def test_a_chunk_is_the_same_whenever_it_is_asked_for(computed):
    order = [3, 0, 2, 3, 1]
    assert computed.n_chunks("layers.0") > 4
    found = [computed.chunk("layers.0", i) for i in order]
    assert np.array_equal(found[0], found[3]) and not np.array_equal(found[0][:5], found[1][:5])
    chunk = computed.chunk_rows("layers.0")
    whole = computed["layers.0"][:]
    for index, rows in zip(order, found, strict=True):
        np.testing.assert_array_equal(whole[index * chunk : index * chunk + len(rows)], rows)


def test_held_out_rows_are_read_without_running_the_rest(computed, monkeypatch):
    use = computed.doc_id == 7
    expected = computed["layers.0"][np.flatnonzero(use)]
    seen = _count_windows(computed, monkeypatch)
    found = torch.cat(list(used_blocks(computed, "layers.0", use)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    ran = {int(d) for w in seen for d in np.unique(computed.plan.doc_id[computed.plan.window(w)])}
    assert ran == {7} and len(seen) <= 4
    assert len(computed.rows_where("layers.0", slice(0, 50), np.zeros(50, dtype=bool))) == 0


def test_input_and_output_of_a_transcoder_are_one_pass(computed, monkeypatch):
    both = joined_rows(computed, "layers.1.mlp")
    seen = _count_windows(computed, monkeypatch)
    rows = both.chunk("layers.0", 1)
    n_once = len(seen)
    assert rows.shape[1] == 2 * computed.d_in("layers.0") and len(set(seen)) == n_once


# ------------------------------------------------------------------------------ mixing
def _same_document(order: np.ndarray, doc_id: np.ndarray, batch_size: int) -> float:
    """Return the share of pairs in a batch that are of one document, the mean over batches."""
    shares = []
    for start in range(0, len(order) - batch_size + 1, batch_size):
        _, counts = np.unique(doc_id[order[start : start + batch_size]], return_counts=True)
        shares.append((counts * (counts - 1)).sum() / (batch_size * (batch_size - 1)))
    return float(np.mean(shares))


def _order(store, chunk_rows: int, n_rows: int, in_buffer: int) -> np.ndarray:
    """Return the rows in the order in which a pass over the store gives them."""
    batches = ShuffledBatches(store, "layers.0", np.ones(n_rows, dtype=bool), batch_size=10, seed=5, buffer_mb=1)
    batches.group_chunks = max(1, in_buffer // chunk_rows)
    found = torch.cat(list(itertools.islice(batches.from_batch(0), n_rows // 10)))
    return found[:, 0].long().numpy()


def test_a_batch_mixes_documents_as_that_of_a_store_does(lm, make_store, monkeypatch):
    """Half of the rows in a buffer: pairs of one document are as rare as in a store, and often without shuffling.

    Chunks of the store are as many windows long as two, fewer than the seven of a real one.
    """
    computed = computed_activations(lm, TEXTS, NAMES, **{**SETTINGS, "batch_size": 2})
    n, doc_id, d_in = computed.n_rows, computed.doc_id, computed.d_in("layers.0")
    numbers = torch.arange(n).float()[:, None].expand(n, d_in)
    before = computed._runner.rows_before
    ranges = lambda windows: torch.cat([numbers[before[w] : before[w + 1]] for w in windows])  # noqa: E731
    monkeypatch.setattr(computed._runner, "windows", lambda windows: dict.fromkeys(NAMES, ranges(windows)))
    chunk = computed.chunk_rows("layers.0")
    mine = _order(computed, chunk, n, n // 2)
    in_order = np.sort(doc_id)
    with ActivationStore(make_store(numbers.contiguous(), chunk_rows=chunk)) as store:
        theirs = _order(store, chunk, n, n // 2)
    assert len(np.unique(mine)) == len(mine)
    together, stored = _same_document(mine, doc_id, 50), _same_document(theirs, in_order, 50)
    unshuffled = _same_document(np.arange(n), in_order, 50)
    assert together < 1.2 * stored and together < unshuffled / 2


# ------------------------------------------------------------------------------ training
class _Stop(BaseException):
    """As a KeyboardInterrupt."""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights_and_leaves_no_store(lm, tmp_path):
    config = SaeTrainConfig("layers.0", k=3, d_sae=64, batch_size=64, tokens=1280, frac_holdout=0.1, save_every=5)
    steps = iter(range(12))

    def stop(_n=1, **_info):
        if next(steps, None) is None:
            raise _Stop

    fresh = lambda: computed_activations(lm, TEXTS, NAMES, **SETTINGS)  # noqa: E731
    result = train_one(fresh(), config, tmp_path / "straight", device="cpu")
    with pytest.raises(_Stop):
        train_one(fresh(), config, tmp_path / "killed", device="cpu", advance=stop)
    train_one(fresh(), config, tmp_path / "killed", device="cpu", resume=True)
    assert (tmp_path / "straight" / WEIGHTS).read_bytes() == (tmp_path / "killed" / WEIGHTS).read_bytes()
    assert not list(tmp_path.rglob("*.h5")) and result["steps"] == 20
    with cache_activations(lm, TEXTS, NAMES, out=tmp_path / "a.h5", progress=silent, **SETTINGS) as store:
        from_store = train_one(store, config, tmp_path / "stored", device="cpu")
    assert result["fvu"] == pytest.approx(from_store["fvu"], rel=0.3)
    other = computed_activations(lm, TEXTS, NAMES, **{**SETTINGS, "batch_size": 2})
    with pytest.raises(ConfigError):
        _continue(other, config, tmp_path / "half", fresh())


def _continue(other, config, out, first) -> None:
    """Begin a run with one way to compute rows and go on with another."""
    steps = iter(range(7))

    def stop(_n=1, **_info):
        if next(steps, None) is None:
            raise _Stop

    with pytest.raises(_Stop):
        train_one(first, config, out, device="cpu", advance=stop)
    train_one(other, config, out, device="cpu", resume=True)


def test_what_cannot_be_computed_is_refused(lm):
    with pytest.raises(ConfigError, match="frac_entity_rows"):
        computed_activations(lm, TEXTS, NAMES, frac_entity_rows=0.5)
    with pytest.raises(HookPointError):
        computed_activations(lm, TEXTS, "layers.99")
    with pytest.raises(ConfigError, match="ctx_len"):
        computed_activations(lm, TEXTS, NAMES, ctx_len=10**6)
