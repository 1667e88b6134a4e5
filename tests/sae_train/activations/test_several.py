"""Several stores as one, and stores at addresses: the rows of the files, shuffled and fetched in chunks."""

from __future__ import annotations

import itertools

import fsspec
import h5py
import numpy as np
import pytest
import torch

from sae_train.activations import layout
from sae_train.activations.joined import JoinedStore
from sae_train.activations.sampler import ShuffledBatches, sample_rows
from sae_train.activations.several import SeveralStores, opened_store
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError, FileFormatError, MissingFileError, ShapeError
from sae_train.quality.evaluate import used_blocks
from sae_train.storage import h5
from sae_train.storage.remote import RemoteFile
from sae_train.text.token_plan import ROW_KINDS

NAME = "layers.0"


@pytest.fixture
def paths(make_store):
    """Two stores, of 70 and 45 rows in chunks of 16; row i of both together is (i, i, i)."""
    rows = torch.arange(115.0)[:, None].expand(115, 3)
    return [make_store(rows[:70].clone(), name="a.h5"), make_store(rows[70:].clone(), name="b.h5")]


@pytest.fixture
def memory(paths):
    """The same stores at addresses."""
    files = fsspec.filesystem("memory")
    for path in paths:
        files.pipe(f"/stores/{path.name}", path.read_bytes())
    yield [f"memory://stores/{path.name}" for path in paths]
    files.rm("/stores", recursive=True)


def _epoch(store, n_rows: int, seed: int = 0) -> np.ndarray:
    """Return the first column of an epoch of shuffled rows; the buffer holds four chunks at a time."""
    batches = ShuffledBatches(store, NAME, np.ones(n_rows, dtype=bool), batch_size=5, seed=seed, buffer_mb=1)
    batches.group_chunks = 4
    return torch.cat(list(itertools.islice(batches.from_batch(0), n_rows // 5)))[:, 0].numpy()


@pytest.mark.parametrize("where", ["local", "memory"])
def test_several_stores_are_one(paths, memory, where):
    sources = {"local": paths, "memory": memory}[where]
    with opened_store(sources) as store:
        assert isinstance(store, SeveralStores) and (store.n_rows, store.n_chunks(NAME), store.d_in(NAME)) == (
            115,
            8,
            3,
        )
        assert store.chunk_edges(NAME).tolist() == [0, 16, 32, 48, 64, 70, 86, 102, 115]
        everything = np.arange(115.0)
        assert np.array_equal(store[NAME][:][:, 0], everything)
        assert np.array_equal(store[NAME][60:80][:, 0], everything[60:80])
        picked = [114, 3, 69, 70, 71, 15]
        assert store[NAME][picked][:, 0].tolist() == picked
        assert np.array_equal(np.sort(_epoch(store, 115)), everything)
        assert not np.array_equal(_epoch(store, 115), _epoch(store, 115, seed=1))
        mixed = _epoch(store, 115)[:64] >= 70
        assert 5 < mixed.sum() < 59  # a group of four chunks comes from both files
        assert np.array_equal(store.doc_id, np.concatenate([np.arange(70) // 10, 7 + np.arange(45) // 10]))
        use = store.doc_id == 7
        assert np.array_equal(torch.cat(list(used_blocks(store, NAME, use)))[:, 0], everything[70:80])
        assert len(sample_rows(store, NAME, use, n_rows=8, seed=0)) == 8
        assert store.damaged_chunks() == []
        assert [s["n_rows"] for s in store.identity()["stores"]] == [70, 45]


def test_one_store_at_an_address_gives_the_epoch_of_the_file(paths, memory):
    with ActivationStore(paths[0]) as here, ActivationStore(memory[0]) as there:
        assert np.array_equal(_epoch(here, 70), _epoch(there, 70))
        assert torch.equal(torch.cat([r for _, r in here.blocks(NAME)]), torch.cat([r for _, r in there.blocks(NAME)]))
        assert here.identity() == there.identity() and np.array_equal(here.doc_id, there.doc_id)


def test_a_remote_group_is_fetched_in_chunks_and_at_once(memory, monkeypatch):
    asked, real = [], RemoteFile.parts
    monkeypatch.setattr(RemoteFile, "parts", lambda self, places: (asked.append(places), real(self, places))[1])
    with ActivationStore(memory[0]) as store:
        batches = ShuffledBatches(store, NAME, np.ones(70, dtype=bool), batch_size=70, seed=0, buffer_mb=1)
        next(batches._read_ahead(iter(list(itertools.islice(batches._groups(), 2)))))
    assert [len(places) for places in asked][0] == 5
    assert {n for places in asked for _, n in places} == {16 * 3 * 4 + 4}  # whole chunks, with HDF5's checksum


@pytest.fixture
def joined(make_store, tmp_path, monkeypatch):
    """A store whose rows lie in two part files beside it, 64 and 51 rows, copied to an address."""
    rows = torch.arange(115.0)[:, None].expand(115, 3)
    parts = [make_store(rows[:64].clone(), name="part-1"), make_store(rows[64:].clone(), name="part-2")]
    with ActivationStore(parts[0]) as store:
        attrs = {key: store.attrs[key] for key in ("model", "hook_points", "dtype")}
    for path in parts:
        with h5py.File(path, "r+") as file:
            h5.set_attrs(file, {"schema": h5.SCHEMA_PREFIX + layout.PART_SCHEMA})
            h5.seal(file)
    monkeypatch.setattr(h5, "CHUNK_BYTES", 16 * 3 * 4)
    with h5.create(tmp_path / "whole.h5", layout.SCHEMA, layout.VERSION, {}) as file:
        h5.set_attrs(file, {**attrs, "n_rows": 115, "complete": True})
        layout.write_row_fields(file, lambda name: [np.arange(115).astype(ROW_KINDS[name])], 115)
        layout.join_parts(file, [("part-1", 64), ("part-2", 51)], h5.get_attrs(file), 3)
    files = fsspec.filesystem("memory")
    for path in (*parts, tmp_path / "whole.h5"):
        files.pipe(f"/joined/{path.name}", path.read_bytes())
    yield tmp_path / "whole.h5", files
    files.rm("/joined", recursive=True)


def test_the_parts_of_a_remote_store_are_read_from_beside_it(joined):
    local, files = joined
    with ActivationStore(local) as here, ActivationStore("memory://joined/whole.h5") as there:
        assert np.array_equal(there[NAME][:][:, 0], np.arange(115.0))
        assert np.array_equal(_epoch(here, 115), _epoch(there, 115))
    files.rm("/joined/part-2")
    with pytest.raises(MissingFileError, match="part-2"):
        ActivationStore("memory://joined/whole.h5")


# ------------------------------------------------------------------------------ what is refused
def test_stores_that_do_not_go_together_are_refused(make_store):
    rows = torch.zeros(30, 3)
    same, other = make_store(rows, name="same.h5"), make_store(rows, name="other.h5", also={"layers.1": rows})
    wide, foreign = make_store(torch.zeros(30, 4), name="wide.h5"), make_store(rows, name="foreign.h5")
    for path, change in ((foreign, {"model_hash": "x"}), (same, {"plan_hash": "p"})):
        with h5py.File(path, "r+") as file:
            h5.set_attrs(file, change)
            h5.seal(file)
    for pair, error, said in (
        ([same, other], ConfigError, "other hook points"),
        ([same, wide], ShapeError, "do not go together"),
        ([same, foreign], ConfigError, "different models"),
        ([same, same], ConfigError, "named twice"),
        ([], ConfigError, "no activations"),
    ):
        with pytest.raises(error, match=said), opened_store(pair):
            pass


def test_two_models_in_several_files_go_together_where_the_files_do(paths, make_store):
    rows = torch.arange(115.0)[:, None].expand(115, 3) + 1000
    after = [make_store(rows[:70].clone(), name="c.h5"), make_store(rows[70:].clone(), name="d.h5")]
    whole = make_store(rows.clone(), np.r_[np.arange(70) // 10, 7 + np.arange(45) // 10], name="e.h5")
    with opened_store(paths) as one, opened_store(after) as two, opened_store(whole) as other:
        both = JoinedStore(one, two)
        found = np.concatenate(list(both.chunks(NAME, range(8))))
        assert np.array_equal(found[:, 3], found[:, 0] + 1000) and len(found) == 115
        with pytest.raises(ShapeError, match="other files or chunks"):
            JoinedStore(one, other)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("memory://nothing/acts.h5", "no such file"),
        ("nowhere://bucket/acts.h5", "Protocol not known"),
        ("memory://stores", "cannot read"),
    ],
)
def test_a_bad_address_is_one_message(address, said, wb, tmp_path, memory):
    with pytest.raises(MissingFileError, match=said):
        ActivationStore(address)
    found = wb("train-sae", "--activations", address, "--hook-point", NAME, "--out", tmp_path / "sae")
    assert found.code == 2 and address in found.err and "Traceback" not in found.err


def test_a_remote_file_is_checked_as_a_local_one(paths, memory):
    files, whole = fsspec.filesystem("memory"), paths[0].read_bytes()
    with h5py.File(paths[0]) as file:
        place = file[f"acts/{NAME}"].id.get_chunk_info_by_coord((16, 0))
    flipped = bytearray(whole)
    flipped[place.byte_offset + 5] ^= 1
    files.pipe("/stores/a.h5", bytes(flipped))
    with ActivationStore(memory[0]) as store:
        store.chunk(NAME, 0)
        with pytest.raises(FileFormatError, match="damaged"):
            store.chunk(NAME, 1)
    files.pipe("/stores/a.h5", whole[: len(whole) // 2])
    with pytest.raises(FileFormatError):
        ActivationStore(memory[0])
    with h5py.File(paths[0], "r+") as file:
        file["x"] = h5py.ExternalLink("/etc/other.h5", "doc_id")
    files.pipe("/stores/a.h5", paths[0].read_bytes())
    with pytest.raises(FileFormatError, match="ExternalLink"):
        ActivationStore(memory[0])


def test_s3_says_what_to_install_where_it_is_not(monkeypatch):
    def missing(_address):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingFileError, match="s3fs") as error:
        ActivationStore("s3://bucket/acts.h5")
    assert "sae-workbench[remote]" in str(error.value)


@pytest.mark.slow
def test_an_s3_server_gives_the_rows_of_the_file(paths, monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'sae-workbench[remote]'")
    server = pytest.importorskip("moto.server", reason="no server: pip install moto flask flask-cors")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    served = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    served.start()
    try:
        host, port = served.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("bucket")
        for path in paths:
            files.pipe(f"bucket/{path.name}", path.read_bytes())
        with opened_store(paths) as here, opened_store([f"s3://bucket/{path.name}" for path in paths]) as there:
            assert np.array_equal(_epoch(here, 115), _epoch(there, 115))
            assert np.array_equal(here[NAME][:], there[NAME][:]) and np.array_equal(here.doc_id, there.doc_id)
        with pytest.raises(MissingFileError, match="s3://bucket/none.h5"):
            ActivationStore("s3://bucket/none.h5")
    finally:
        served.stop()
