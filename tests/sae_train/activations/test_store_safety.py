"""What may go wrong around a store: several processes, two writers, a full disk, memory, flipped bits, false claims."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import torch

from features.inspection.inspection import inspect_file
from sae_train.activations import forward, layout
from sae_train.activations.sampler import ShuffledBatches
from sae_train.activations.store import ActivationStore
from sae_train.activations.writing import units
from sae_train.activations.writing.estimate import estimate_store
from sae_train.activations.writing.units import Units
from sae_train.activations.writing.writer import write_store
from sae_train.config import CacheConfig
from sae_train.errors import (
    BusyError,
    ConfigError,
    DiskSpaceError,
    FileFormatError,
    MemoryShortError,
    MissingFileError,
    StoppedError,
    WorkbenchError,
)
from sae_train.lm.models import load_lm
from sae_train.run.processes import Processes
from sae_train.run.progress import no_advance
from sae_train.run.runs import partial_path
from sae_train.storage import h5
from sae_train.storage.checksums import attributes_checksum
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows

torch.set_num_threads(1)
NAMES = ("embed", "layers.1")
TEXTS = [f"The city of Velmora lies on the river Ost. {'Its harbour is old. ' * (n % 5)}Number {n}." for n in range(20)]


@pytest.fixture(scope="module")
def lm(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.fixture(scope="module")
def plan(lm):
    return plan_windows(map(Document, TEXTS), lm.tokenizer, ctx_len=24, max_rows=500)


@pytest.fixture
def small_chunks(monkeypatch):
    """Sixteen float32 rows in a chunk and a commit every 24 rows, so that a tiny store has many of both."""
    monkeypatch.setattr(h5, "CHUNK_BYTES", 16 * 32 * 4)
    monkeypatch.setattr(layout, "COMMIT_EVERY_ROWS", 24)
    monkeypatch.setattr(units, "UNIT_BATCHES", 0)


class OneOf(Processes):
    """One of several processes that run one after the other: nobody to wait for."""

    def wait(self) -> None:
        """Return at once."""


def _write(lm, plan, out: Path, *, rank: int = 0, count: int = 1, resume=False, advance=no_advance, **settings):
    config = CacheConfig(**{"hook_points": NAMES, "ctx_len": 24, "batch_size": 4, "dtype": "float32", **settings})
    others = {"processes": OneOf(rank, count), "resume": resume, "advance": advance}
    return write_store(lm, plan, config, out, provenance={"model": "toy", "text": "corpus"}, **others)


def _rows(path: Path) -> dict[str, np.ndarray]:
    """Everything a reader gets from a store."""
    with ActivationStore(path) as store:
        found = {name: store.rows(name, slice(0, store.n_rows)).numpy() for name in store.hook_points}
        fields = {name: store.row_field(name) for name in layout.ROW_FIELDS}
        return {**found, **fields, "chunks": np.array([store.chunk_rows(n) for n in store.hook_points])}


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------ several processes
@pytest.mark.parametrize("count", [2, 3, 40])
def test_parts_of_several_processes_hold_the_rows_of_one(lm, plan, tmp_path, small_chunks, count):
    _write(lm, plan, tmp_path / "one.h5")
    out = tmp_path / "many.h5"
    for rank in reversed(range(count)):
        _write(lm, plan, out, rank=rank, count=count) if rank else None
    result = _write(lm, plan, out, rank=0, count=count)
    assert _same(_rows(out), _rows(tmp_path / "one.h5"))
    assert result.bytes == sum(p.stat().st_size for p in tmp_path.glob("many.h5*"))
    assert len(list(tmp_path.glob("many.h5.part-*"))) == 32  # 500 rows are 32 chunks, whoever writes them
    found = inspect_file(out, verify=True)
    assert not found.has_problems
    with ActivationStore(out) as joined, ActivationStore(tmp_path / "one.h5") as one:
        batches = [
            next(ShuffledBatches(s, "layers.1", np.ones(500, bool), batch_size=64, seed=1, buffer_mb=1).from_batch(3))
            for s in (joined, one)
        ]
        assert torch.equal(*batches)


def test_a_part_that_is_missing_damaged_or_outside_is_refused(lm, plan, tmp_path, small_chunks):
    out = tmp_path / "many.h5"
    for rank in (1, 0):
        _write(lm, plan, out, rank=rank, count=2)
    part = tmp_path / "many.h5.part-0001-of-0032"
    whole = part.read_bytes()
    with h5py.File(part) as file:
        where = file["acts/layers.1"].id.get_chunk_info(0).byte_offset
    part.write_bytes(whole[: where + 5] + bytes([whole[where + 5] ^ 1]) + whole[where + 6 :])
    with ActivationStore(out) as store:
        store.rows("layers.1", slice(0, 16))
        with pytest.raises(FileFormatError, match="damaged"):
            store.rows("layers.1", slice(0, 500))
    assert inspect_file(out, verify=True).damaged
    part.unlink()
    with pytest.raises(MissingFileError, match="part-0001"):
        ActivationStore(out)


class Stop(BaseException): ...


def _stop_after(n_rows: int):
    """Return what stops a run once so many rows are on their way."""
    seen = []

    def stop(rows: int, *, earlier: int = 0) -> None:
        seen.append(rows)
        if sum(seen) >= n_rows:
            raise Stop

    return stop


@pytest.mark.parametrize("then", [1, 2, 3, 5])
def test_a_run_of_two_processes_goes_on_with_another_number(lm, plan, tmp_path, small_chunks, monkeypatch, then):
    _write(lm, plan, tmp_path / "one.h5")
    out = tmp_path / "many.h5"
    for rank, n_rows in ((1, 100), (0, 60)):
        with pytest.raises(Stop):
            _write(lm, plan, out, rank=rank, count=2, advance=_stop_after(n_rows))
    finished = {p.name: p.stat().st_mtime_ns for p in layout.part_files(out) if p.suffix != ".partial"}
    assert len(finished) >= 4 and any(p.suffix == ".partial" for p in layout.part_files(out))
    layout.claim_parts(out, "-of-0032", resume=True)
    for rank in reversed(range(then)):
        if rank:
            _write(lm, plan, out, rank=rank, count=then, resume=True)
    _write(lm, plan, out, rank=0, count=then, resume=True)
    assert _same(_rows(out), _rows(tmp_path / "one.h5"))
    assert {n: (tmp_path / n).stat().st_mtime_ns for n in finished} == finished  # what was finished stays as it is
    assert not [p for p in layout.part_files(out) if p.suffix == ".partial"]


def test_what_one_process_began_the_first_of_several_finishes(lm, plan, tmp_path, small_chunks):
    _write(lm, plan, tmp_path / "one.h5")
    out = tmp_path / "a.h5"
    with pytest.raises(Stop):
        _write(lm, plan, out, advance=_stop_after(100))
    for rank in (1, 0):
        _write(lm, plan, out, rank=rank, count=2, resume=True)
    assert _same(_rows(out), _rows(tmp_path / "one.h5")) and not layout.part_files(out)


def test_parts_of_another_division_are_refused_or_removed(lm, plan, tmp_path, small_chunks):
    out = tmp_path / "many.h5"
    _write(lm, plan, out, rank=1, count=2)
    with pytest.raises(ConfigError, match="other parts"):
        layout.claim_parts(out, "-of-0002", resume=True)
    layout.claim_parts(out, "-of-0002", resume=False)
    assert not list(tmp_path.glob("*.part-*"))


@pytest.mark.parametrize(
    ("n_rows", "chunk", "batch_rows"), [(1, 16, 0), (500, 16, 9), (10**9, 910, 4096), (64, 16, 16)]
)
def test_units_cover_every_row_once_in_whole_chunks(n_rows, chunk, batch_rows):
    whole = Units(n_rows, chunk, batch_rows, Path("a.h5"))
    shares = whole.all()
    assert shares[0].first == 0 and shares[-1].end == n_rows
    assert all(one.end == two.first and two.first % chunk == 0 for one, two in itertools.pairwise(shares))
    assert all(share.n_rows >= units.UNIT_BATCHES * batch_rows for share in shares[:-1])
    for count in (2, 3, 7):
        dealt = [whole.of(OneOf(rank, count), resume=False) for rank in range(count)]
        assert sorted(itertools.chain(*dealt), key=lambda share: share.first) == shares


@pytest.mark.slow
def test_two_processes_started_by_torchrun_write_the_rows_of_one(tmp_path):
    """gloo on two CPU processes, through the command line."""
    bin_folder = Path(sys.executable).parent
    words = ["cache-activations", "--model", "fact-world", "--text", "fact-world", "--hook-point", "layers.1"]
    words += ["--max-tokens", "9000", "--ctx-len", "32", "--json", "--out"]
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    run = {"env": environment, "check": False, "capture_output": True, "text": True, "timeout": 300}
    start = ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "wb"]
    done = subprocess.run([*start, *words, str(tmp_path / "two.h5")], **run)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"n_rows": 9000') == 1, "one process speaks for both"
    alone = subprocess.run(["wb", *words, str(tmp_path / "one.h5")], **run)
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert _same(_rows(tmp_path / "two.h5"), _rows(tmp_path / "one.h5"))
    again = subprocess.run([*start, *words, str(tmp_path / "two.h5")], **run)
    assert again.returncode != 0 and "exists already" in again.stderr


# ------------------------------------------------------------------------------ two writers, a full disk, memory
def test_a_second_writer_is_refused_and_harms_nothing(lm, plan, tmp_path, small_chunks):
    out, refused = tmp_path / "a.h5", []

    def second(_rows: int, *, earlier: int = 0) -> None:
        if not refused:
            for resume in (False, True):
                with ThreadPoolExecutor(1) as other, pytest.raises(BusyError, match="another process"):
                    other.submit(_write, lm, plan, out, resume=resume).result()
                refused.append(resume)

    _write(lm, plan, out, advance=second)
    assert refused == [False, True]
    _write(lm, plan, tmp_path / "b.h5")
    assert _same(_rows(out), _rows(tmp_path / "b.h5"))
    assert {p.name for p in tmp_path.iterdir()} == {"a.h5", "b.h5"}


FULL_DISK = """
import resource, sys
from pathlib import Path
from sae_train.activations import layout
from sae_train.activations.writing import writer
from sae_train.config import CacheConfig
from sae_train.errors import StoppedError
from sae_train.lm.models import load_lm
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, out, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
lm = load_lm(folder, device="cpu")
plan = plan_windows([Document("The city of Velmora lies on the river Ost. " * 3 + str(n)) for n in range(600)],
                    lm.tokenizer, ctx_len=24)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
config = CacheConfig(("embed", "layers.1"), ctx_len=24, batch_size=64, dtype="float32")
try:
    writer.write_store(lm, plan, config, out, provenance={"model": "toy", "text": "corpus"}, resume=len(sys.argv) > 4)
except StoppedError as error:
    print(error)
    sys.exit(1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of a file by a Linux signal")
def test_a_disk_that_fills_up_is_said_and_leaves_what_can_be_continued(tiny_llama_dir, tmp_path):
    def run(limit: int, *more: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-c", FULL_DISK, str(tiny_llama_dir), str(tmp_path / "a.h5"), str(limit), *more]
        return subprocess.run(words, capture_output=True, text=True, timeout=120)

    first = run(1_000_000)
    assert first.returncode == 1 and "the disk is full" in first.stdout and "resume" in first.stdout, first
    assert not (tmp_path / "a.h5").exists() and not list(tmp_path.glob("*.new"))
    then = run(2**40, "--resume")
    assert then.returncode == 0, then
    assert not inspect_file(tmp_path / "a.h5", verify=True).damaged


def test_a_disk_that_fills_up_behind_the_first_rows_keeps_them(lm, plan, tmp_path, small_chunks, monkeypatch):
    real, out = layout.RowWriter._write, tmp_path / "a.h5"

    def full(self, name, rows):
        if self.n_rows >= 96:
            raise OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')")
        real(self, name, rows)

    with monkeypatch.context() as patch, pytest.raises(StoppedError, match="resume"):
        patch.setattr(layout.RowWriter, "_write", full)
        _write(lm, plan, out)
    with h5py.File(partial_path(out)) as file:
        committed = int(file.attrs["rows_committed"])
    assert committed >= 96
    stored: list[int] = []
    _write(lm, plan, out, resume=True, advance=lambda n, earlier=0: stored.append(earlier or n))
    assert stored[0] == committed
    _write(lm, plan, tmp_path / "b.h5")
    assert _same(_rows(out), _rows(tmp_path / "b.h5"))


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory: you"])
def test_a_batch_that_does_not_fit_is_halved(lm, plan, tmp_path, monkeypatch, said):
    sizes, real = [], forward.capture

    def small_memory(model, ids, mask, names):
        sizes.append(len(ids))
        if len(ids) > 3:
            raise RuntimeError(said)
        return real(model, ids, mask, names)

    _write(lm, plan, tmp_path / "b.h5", batch_size=8)
    monkeypatch.setattr(forward, "capture", small_memory)
    result = _write(lm, plan, tmp_path / "a.h5", batch_size=8)
    assert result.largest_batch == 2 and sizes[:3] == [8, 4, 2]
    assert max(sizes[3:]) <= 2, "what did not fit once is not tried again"
    one, other = _rows(tmp_path / "a.h5"), _rows(tmp_path / "b.h5")
    assert all(np.allclose(one[k], other[k], rtol=1e-5, atol=1e-6) for k in one)


def test_an_error_that_is_not_about_memory_is_not_swallowed(lm, plan, tmp_path, monkeypatch):
    def broken(*_args):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(forward, "capture", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        _write(lm, plan, tmp_path / "a.h5")


def test_the_estimate_refuses_what_cannot_fit_and_times_a_probe(lm, plan, tmp_path, monkeypatch):
    config = CacheConfig(NAMES, ctx_len=24, dtype="float32")
    found = estimate_store(lm, plan, config, tmp_path / "a.h5", n_processes=1)
    assert found.n_rows == 500 and found.disk_bytes > 500 * 2 * 32 * 4
    assert found.seconds == pytest.approx(len(plan.tokens) / found.tokens_per_s)
    assert "500 rows" in str(found) and not list(tmp_path.iterdir())
    memory = psutil.virtual_memory()
    with monkeypatch.context() as patch, pytest.raises(MemoryShortError, match="max_tokens"):
        patch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=10_000))
        estimate_store(lm, plan, config, tmp_path / "a.h5", n_processes=1)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(DiskSpaceError):
        patch.setattr("shutil.disk_usage", lambda _p: usage._replace(free=1000))
        estimate_store(lm, plan, config, tmp_path / "a.h5", n_processes=1)


# ------------------------------------------------------------------------------ flipped bits and false claims
def _outcome(path: Path, expected: dict[str, np.ndarray], attrs: str) -> str:
    """Tell whether a reader notices: found, or harmless; anything else is a silent wrong number."""
    try:
        with h5.open_checked(path, layout.SCHEMA, layout.VERSION) as file:
            same = attributes_checksum(h5.all_attributes(file)) == attrs
        return "harmless" if same and _same(_rows(path), expected) else "silent"
    except WorkbenchError:
        return "found"


@pytest.mark.slow
def test_no_flipped_bit_is_ever_a_silent_wrong_number(lm, plan, tmp_path, small_chunks):
    path, bad = tmp_path / "a.h5", tmp_path / "bad.h5"
    _write(lm, plan, path)
    expected, whole, draw = _rows(path), path.read_bytes(), random.Random(0)
    with h5.open_checked(path, layout.SCHEMA, layout.VERSION) as file:
        attrs = attributes_checksum(h5.all_attributes(file))
        infos = [file["acts/layers.1"].id.get_chunk_info(i) for i in range(32)]
    inside = [info.byte_offset + draw.randrange(16 * 32 * 4) for info in infos[:-1]]
    anywhere = [draw.randrange(len(whole)) for _ in range(200)]
    outcomes = []
    for place in [*inside, *anywhere]:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        bad.write_bytes(changed)
        outcomes.append(_outcome(bad, expected, attrs))
    assert outcomes[: len(inside)] == ["found"] * len(inside)
    assert outcomes.count("silent") == 0, [
        p for p, o in zip(anywhere, outcomes[len(inside) :], strict=True) if o == "silent"
    ]
    assert outcomes[len(inside) :].count("found") > 100


def test_chunks_that_changed_places_are_noticed(lm, plan, tmp_path, small_chunks):
    """HDF5's own checksum of each chunk still fits; that of the content does not."""
    path = tmp_path / "a.h5"
    _write(lm, plan, path)
    with h5py.File(path, "r+") as file:
        rows = file["acts/layers.1"]
        rows[0:16], rows[16:32] = rows[16:32], rows[0:16]
    with ActivationStore(path) as store:
        store.rows("layers.1", slice(32, 48))
        with pytest.raises(FileFormatError, match="damaged"):
            store.rows("layers.1", slice(0, 16))


def test_a_changed_attribute_and_a_false_claim_are_refused(lm, plan, tmp_path):
    path = tmp_path / "a.h5"
    for change, said in (
        (lambda f: f.attrs.modify("text", "other"), "attributes"),
        (lambda f: f["acts/layers.1"].attrs.modify("unit", "volts"), "attributes"),
        (lambda f: f.create_dataset("huge", (2**50, 4), "f4", chunks=(16, 4)), "claims more"),
    ):
        _write(lm, plan, path)
        ActivationStore(path).__exit__()
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(FileFormatError, match=said):
            ActivationStore(path)


@pytest.mark.slow
def test_an_interrupt_from_the_keyboard_says_how_to_go_on(tmp_path):
    wb, out = str(Path(sys.executable).with_name("wb")), tmp_path / "a.h5"
    words = [wb, "cache-activations", "--model", "fact-world", "--text", "fact-world", "--hook-point", "layers.3"]
    words += ["--ctx-len", "16", "--batch-size", "2", "--max-tokens", "60000", "--out", str(out)]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background would be deaf to it
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 120
    while not partial_path(out).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "--resume" in said and "interrupted" in said, said
    assert {p.name for p in tmp_path.iterdir()} == {partial_path(out).name}
    assert subprocess.run([*words, "--resume"], capture_output=True, timeout=300).returncode == 0
    subprocess.run([*words[:-1], str(tmp_path / "b.h5")], capture_output=True, timeout=300, check=True)
    assert _same(_rows(out), _rows(tmp_path / "b.h5"))
