"""The activation store: what is written, what is refused, and what a kill at any moment leaves behind."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from features.inspection.inspection import inspect_file
from sae_train.activations import forward, layout
from sae_train.activations.measures.row_statistics import hook_point_stats
from sae_train.activations.store import ActivationStore
from sae_train.activations.travel import checked_rows
from sae_train.activations.writing import writer
from sae_train.activations.writing.writer import store_bytes, write_store
from sae_train.config import CacheConfig
from sae_train.errors import (
    ConfigError,
    DiskSpaceError,
    DtypeError,
    FileFormatError,
    HookPointError,
    MissingFileError,
    NumericalError,
    OutputExistsError,
    SchemaError,
    ShapeError,
)
from sae_train.lm.hooks import capture
from sae_train.lm.models import load_lm
from sae_train.run.claims import claim_output
from sae_train.run.progress import no_advance
from sae_train.run.runs import partial_path
from sae_train.storage import h5, h5_chunks, h5_contents
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows

torch.set_num_threads(1)
NAMES = ("embed", "layers.0", "layers.1.mlp")
TEXTS = [f"The city of Velmora lies on the river Ost. {'Its harbour is old. ' * (n % 5)}Number {n}." for n in range(12)]


@pytest.fixture(scope="module")
def lm(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.fixture(scope="module")
def plan(lm):
    entities = [Document(f"Yesterday {n} sang", 10 + len(n)) for n in ("Mira Tolvan", "Old Harrow")] * 20
    return plan_windows(
        map(Document, TEXTS), lm.tokenizer, ctx_len=24, max_rows=400, entity_documents=entities, frac_entity_rows=0.05
    )


@pytest.fixture
def small_chunks(monkeypatch):
    """Sixteen float32 rows in a chunk and a commit every 24 rows, so that a tiny store has many of both."""
    monkeypatch.setattr(h5, "CHUNK_BYTES", 16 * 32 * 4)
    monkeypatch.setattr(layout, "COMMIT_EVERY_ROWS", 24)


def _config(**settings) -> CacheConfig:
    return CacheConfig(**{"hook_points": NAMES, "ctx_len": 24, "batch_size": 4, "dtype": "float32", **settings})


def _write(lm, plan, out: Path, *, resume: bool = False, advance=no_advance, **settings):
    provenance = {"model": "toy", "text": "corpus"}
    return write_store(lm, plan, _config(**settings), out, provenance=provenance, resume=resume, advance=advance)


def _expected(lm, plan, name: str) -> torch.Tensor:
    """Run every window alone, without padding."""
    rows = []
    for index in range(plan.n_windows):
        part = plan.window(index)
        acts = capture(lm, torch.from_numpy(plan.tokens[part].astype(np.int64))[None], None, (name,))[name][0]
        rows.append(acts[torch.from_numpy(plan.keep[part])])
    return torch.cat(rows)


def _content(path: Path) -> dict:
    """Everything in a file but the time it was made, and the seal over it."""
    found = {}
    with h5py.File(path) as file:
        for item in [file, file["acts"], *h5_contents.walk_datasets(file)]:
            attrs = {k: np.asarray(v).tolist() for k, v in item.attrs.items() if k not in ("created", h5.SEAL)}
            data = (item.dtype.str, item.shape, item.chunks, item[()].tobytes()) if hasattr(item, "shape") else None
            found[item.name] = (attrs, data)
    return found


def _flip(path: Path, name: str, row: int) -> None:
    """Change one byte in the middle of the chunk that holds a row, as a half-done write would."""
    with h5py.File(path) as file:
        chunk = file["acts"][name].chunks[0]
        found = file["acts"][name].id.get_chunk_info_by_coord((row // chunk * chunk, 0))
    with path.open("r+b") as stream:
        stream.seek(found.byte_offset + found.size // 2)
        old = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([old[0] ^ 0xFF]))


# ------------------------------------------------------------------------------ round trip
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rows_are_the_models_activations(lm, plan, tmp_path, small_chunks, dtype):
    result = _write(lm, plan, tmp_path / "a.h5", dtype=dtype)
    assert (result.n_rows, result.n_tokens, result.n_special) == (400, len(plan.tokens), plan.n_windows)
    assert result.bytes == (tmp_path / "a.h5").stat().st_size
    # half a unit in the last place: 8 bits of significand in bfloat16, 11 in float16; 2e-6 for batched sums
    bound = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-11}[dtype]
    with ActivationStore(tmp_path / "a.h5") as store:
        for name in NAMES:
            expected, got = _expected(lm, plan, name), store.rows(name, slice(0, 400))
            assert ((got - expected).abs() <= bound * expected.abs() + 2e-6).all(), name
            assert got.dtype == torch.float32 and store.d_in(name) == 32
            blocks = torch.cat([acts for _, acts in store.blocks(name)])
            assert torch.equal(blocks, got)


def test_one_pass_over_several_hook_points_equals_separate_passes(lm, plan, tmp_path):
    _write(lm, plan, tmp_path / "all.h5")
    with ActivationStore(tmp_path / "all.h5") as together:
        for name in NAMES:
            _write(lm, plan, tmp_path / "one.h5", hook_points=(name,))
            with ActivationStore(tmp_path / "one.h5") as alone:
                assert torch.equal(together.rows(name, slice(0, 400)), alone.rows(name, slice(0, 400)))


def test_row_fields_say_where_every_row_comes_from(lm, plan, tmp_path):
    _write(lm, plan, tmp_path / "a.h5")
    table = lm.model.get_input_embeddings().weight
    with ActivationStore(tmp_path / "a.h5") as store:
        tokens = torch.from_numpy(store.row_field("token_id")).long()
        assert torch.equal(store.rows("embed", slice(0, 400)), table[tokens])  # in a Llama the two are the same
        assert not torch.equal(store.rows("embed", slice(0, 400)), table[tokens.roll(1)])
        for field, values in plan.row_fields().items():
            assert np.array_equal(store.row_field(field), values)
        assert store.row_field("from_entity").sum() == 20
        assert store.attrs["n_special_left_out"] == plan.n_windows
        assert store.attrs["special_tokens_left_out"] == [0, 1, 2]
        assert not np.isin(store.row_field("token_id"), [0, 1, 2]).any()


def test_the_store_knows_its_hook_points(lm, plan, tmp_path):
    _write(lm, plan, tmp_path / "a.h5")
    with ActivationStore(tmp_path / "a.h5") as store:
        assert store.hook_point("blocks.0.hook_resid_post") == "layers.0"
        with pytest.raises(HookPointError, match=r"layers\.1\.mlp"):
            store.hook_point("layers.1")
        held = store.holdout_rows(0.25, seed=0)
        assert not set(store.doc_id[held]) & set(store.doc_id[~held])
        assert len(set(store.doc_id[held])) == round(len(set(store.doc_id)) * 0.25)
        with pytest.raises(ConfigError, match="frac_holdout"):
            store.holdout_rows(0.0001, seed=0)
        stats = hook_point_stats(store, "layers.0")
        rows = store.rows("layers.0", slice(0, 400)).double()
        assert stats.mean_norm == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-6)
        assert stats.variance == pytest.approx(float(rows.var(dim=0, unbiased=False).mean()), rel=1e-6)
        assert stats.n_nonfinite_rows == 0 and stats.largest == float(rows.abs().max())


# ------------------------------------------------------------------------------ refusals
def test_float16_refuses_what_it_cannot_hold(tiny_llama_dir, plan, tmp_path):
    loud = load_lm(str(tiny_llama_dir), device="cpu")
    with torch.no_grad():
        loud.model.get_input_embeddings().weight.mul_(1e7)
    largest = float(loud.model.get_input_embeddings().weight[torch.from_numpy(np.unique(plan.tokens))].abs().max())
    with pytest.raises(DtypeError, match="65,504") as error:
        _write(loud, plan, tmp_path / "a.h5", dtype="float16", hook_points=("embed",), batch_size=10_000)
    assert 65_504 < float(error.value.got.split("maximum of ")[1].split(" ")[0].replace(",", "")) <= largest + 1
    assert not list(tmp_path.iterdir())
    _write(loud, plan, tmp_path / "a.h5", dtype="bfloat16", hook_points=("embed",))


def test_the_largest_float16_passes():
    rows = torch.tensor([[65_504.0, -65_504.0]])
    assert torch.equal(checked_rows(rows, "embed", "float16"), rows)
    with pytest.raises(DtypeError):
        checked_rows(torch.tensor([[-65_540.0, 0.0]]), "embed", "float16")


def test_nan_activations_are_refused_and_nothing_is_left(tiny_llama_dir, plan, tmp_path):
    broken = load_lm(str(tiny_llama_dir), device="cpu")
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[int(plan.tokens[5]), 3] = float("nan")
    with pytest.raises(NumericalError, match="NaN"):
        _write(broken, plan, tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


def test_a_small_disk_is_noticed_before_the_model_runs(lm, plan, tmp_path, monkeypatch):
    def no_capture(*_args):
        raise AssertionError("the model ran")

    usage = namedtuple("usage", "total used free")
    needed = store_bytes(plan, _config(), lm.d_model) + 64 * 2**20
    monkeypatch.setattr("shutil.disk_usage", lambda _p: usage(10**12, 0, needed - 1))
    monkeypatch.setattr(forward, "capture", no_capture)
    with pytest.raises(DiskSpaceError, match="max_tokens"):
        _write(lm, plan, tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda _p: usage(10**12, 0, needed))
    with pytest.raises(AssertionError, match="the model ran"):
        _write(lm, plan, tmp_path / "a.h5")


def test_the_disk_estimate_is_close(lm, plan, tmp_path):
    size = _write(lm, plan, tmp_path / "a.h5").bytes
    assert size <= store_bytes(plan, _config(), lm.d_model) <= size + 6 * 2**20


def test_an_output_that_is_there_is_not_overwritten(tmp_path):
    taken = tmp_path / "a.h5"
    taken.write_text("mine")
    with pytest.raises(OutputExistsError, match="overwrite"):
        claim_output(taken, overwrite=False)
    claim_output(taken, overwrite=True)
    claim_output(tmp_path / "b.h5", overwrite=False)
    with pytest.raises(MissingFileError, match="is a file"):
        claim_output(taken / "below.h5", overwrite=True)


# ------------------------------------------------------------------------------ interruptions
class _Stop(BaseException):
    """As a KeyboardInterrupt: nothing in the library catches it."""


def _stop_after(n: int):
    calls = iter(range(n))

    def advance(_rows: int, *, earlier: int = 0) -> None:
        if next(calls, None) is None:
            raise _Stop

    return advance


@pytest.mark.parametrize(("dtype", "torn"), [("float32", True), ("bfloat16", False)])
def test_an_interrupted_store_is_continued_to_the_same_content(lm, plan, tmp_path, small_chunks, torn, dtype):
    """`torn` damages what a killed write may have left half written: the chunk behind the last commit, and the last."""
    _write(lm, plan, tmp_path / "straight.h5", dtype=dtype)
    expected = _content(tmp_path / "straight.h5")
    n_batches = -(-plan.n_windows // 4)
    for stop in range(1, n_batches + 1, 3 if torn else 5):
        out = tmp_path / f"at-{stop}.h5"
        with pytest.raises(_Stop):
            _write(lm, plan, out, dtype=dtype, advance=_stop_after(stop))
        assert not out.exists()
        with h5py.File(partial_path(out)) as file:
            committed = int(file.attrs["rows_committed"])
        if torn:
            for name in NAMES:
                _flip(partial_path(out), name, committed)
                if committed // 16 != 399 // 16:
                    _flip(partial_path(out), name, 399)
        _write(lm, plan, out, dtype=dtype, resume=True)
        assert _content(out) == expected
        assert not partial_path(out).exists()


def test_committed_rows_are_whole_chunks_and_are_not_computed_again(lm, plan, tmp_path, small_chunks, monkeypatch):
    out, batches = tmp_path / "a.h5", []
    with pytest.raises(_Stop):
        _write(lm, plan, out, advance=_stop_after(5))
    with h5py.File(partial_path(out)) as file:
        committed = int(file.attrs["rows_committed"])
    assert committed > 0 and committed % 16 == 0
    real = forward.capture
    monkeypatch.setattr(forward, "capture", lambda *args: batches.append(1) or real(*args))
    stored: list[tuple[int, int]] = []
    _write(lm, plan, out, resume=True, advance=lambda n, earlier=0: stored.append((n, earlier)))
    assert stored[0] == (0, committed) and sum(n + earlier for n, earlier in stored) == 400
    assert 0 < len(batches) < -(-plan.n_windows // 4)
    batches.clear()
    _write(lm, plan, out, resume=True)  # finished already
    assert not batches


def test_a_store_begun_by_an_earlier_version_goes_on_and_is_read(lm, plan, tmp_path, small_chunks):
    out = tmp_path / "a.h5"
    with pytest.raises(_Stop):
        _write(lm, plan, out, advance=_stop_after(5))
    with h5py.File(partial_path(out), "r+") as file:
        file.attrs["entity_share"] = file.attrs["frac_entity_rows"]
        del file.attrs["frac_entity_rows"]
    _write(lm, plan, out, resume=True)
    with ActivationStore(out) as store:
        assert store.attrs["frac_entity_rows"] == _config().frac_entity_rows and "entity_share" not in store.attrs


def test_a_kill_between_the_last_row_and_the_new_name(lm, plan, tmp_path, small_chunks, monkeypatch):
    _write(lm, plan, tmp_path / "straight.h5")
    out, real = tmp_path / "a.h5", writer.os.replace

    def die(source, target):
        if target == out:
            raise _Stop
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(_Stop):
        patch.setattr(writer.os, "replace", die)
        _write(lm, plan, out)
    _write(lm, plan, out, resume=True)
    assert _content(out) == _content(tmp_path / "straight.h5")


def test_resuming_with_other_inputs_is_refused_by_name(lm, plan, tmp_path, small_chunks, tiny_gpt2_dir):
    out = tmp_path / "a.h5"
    with pytest.raises(_Stop):
        _write(lm, plan, out, advance=_stop_after(4))
    before = partial_path(out).read_bytes()
    cut = plan_windows(map(Document, TEXTS), lm.tokenizer, ctx_len=24, max_rows=399)
    other = load_lm(str(tiny_gpt2_dir), device="cpu")
    for said, attempt in {
        "model": lambda: _write(replace(lm, model=other.model), plan, out, resume=True),
        r"text \(or entities, or templates\)": lambda: _write(lm, cut, out, resume=True),
        "dtype": lambda: _write(lm, plan, out, resume=True, dtype="bfloat16"),
        "batch_size": lambda: _write(lm, plan, out, resume=True, batch_size=3),
        "hook_points": lambda: _write(lm, plan, out, resume=True, hook_points=("embed",)),
    }.items():
        with pytest.raises(ConfigError, match=f": {said} has changed"):
            attempt()
    assert partial_path(out).read_bytes() == before
    _write(lm, plan, out, resume=True)
    with pytest.raises(ConfigError, match=": dtype has changed"):
        _write(lm, plan, out, resume=True, dtype="bfloat16")  # the finished file is checked too


def test_without_resume_a_left_over_partial_file_is_begun_again(lm, plan, tmp_path, small_chunks):
    out = tmp_path / "a.h5"
    with pytest.raises(_Stop):
        _write(lm, plan, out, advance=_stop_after(4), dtype="bfloat16")
    _write(lm, plan, out)
    with ActivationStore(out) as store:
        assert store.dtype == "float32"


def test_an_unfinished_store_is_refused_with_the_way_on(lm, plan, tmp_path, small_chunks):
    out = tmp_path / "a.h5"
    with pytest.raises(_Stop):
        _write(lm, plan, out, advance=_stop_after(4))
    with pytest.raises(FileFormatError, match="resume") as error:
        ActivationStore(partial_path(out))
    assert error.value.got.endswith("of 400 rows")


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sae_train.storage import h5, h5_contents
from sae_train.activations import layout
from sae_train.activations.writing import writer
from sae_train.config import CacheConfig
from sae_train.lm.models import load_lm
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows
h5.CHUNK_BYTES, layout.COMMIT_EVERY_ROWS = 16 * 32 * 4, 24
folder, out, resume = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "resume"
lm = load_lm(folder, device="cpu")
texts = [Document("The city of Velmora lies on the river Ost. Its harbour is old. " * 3 + str(n)) for n in range(120)]
plan = plan_windows(texts, lm.tokenizer, ctx_len=24)
config = CacheConfig(("embed", "layers.0", "layers.1.mlp"), ctx_len=24, batch_size=2, dtype="float32")
print("ready", flush=True)
writer.write_store(lm, plan, config, out, provenance={"model": "toy", "text": "corpus"}, resume=resume)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_moments_and_continued(tiny_llama_dir, tmp_path):
    def start(out: Path, how: str) -> subprocess.Popen:
        command = [sys.executable, "-c", KILLED, str(tiny_llama_dir), str(out), how]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until_ready(process: subprocess.Popen) -> None:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()

    straight = start(tmp_path / "straight.h5", "new")
    until_ready(straight)
    begun = time.monotonic()
    assert straight.communicate()[0] == "done\n" and straight.returncode == 0
    whole_s = time.monotonic() - begun
    draw, killed, out = random.Random(0), 0, tmp_path / "a.h5"
    for attempt in range(8):
        process = start(out, "resume" if attempt else "new")
        until_ready(process)
        time.sleep(draw.uniform(0.01, 0.1) * whole_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if out.exists():  # killed behind the last step, or not at all
            break
    process = start(out, "resume")
    said, errors = process.communicate()
    assert said.endswith("done\n"), errors
    assert killed >= 3  # or the test showed nothing
    assert _content(out) == _content(tmp_path / "straight.h5")


# ------------------------------------------------------------------------------ damage
def test_a_flipped_byte_is_found(lm, plan, tmp_path, small_chunks):
    path = tmp_path / "a.h5"
    _write(lm, plan, path)
    assert inspect_file(path, verify=True).damaged == []
    _flip(path, "layers.0", 40)
    assert inspect_file(path, verify=True).damaged == ["/acts/layers.0[32:48]"]
    with ActivationStore(path) as store:
        store.rows("embed", slice(0, 400))
        store.rows("layers.0", slice(0, 32))
        with pytest.raises(FileFormatError, match=r"damaged in dataset '/acts/layers\.0'"):
            store.rows("layers.0", slice(30, 33))


def test_a_truncated_file_is_refused(lm, plan, tmp_path):
    path = tmp_path / "a.h5"
    _write(lm, plan, path)
    whole = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(FileFormatError, match=r"a\.h5"):
            ActivationStore(path)
    with pytest.raises(MissingFileError, match=r"nearest: a\.h5"):
        ActivationStore(tmp_path / "b.h5")
    with pytest.raises(MissingFileError, match="is a folder"):
        ActivationStore(tmp_path)


def test_foreign_and_newer_files_are_refused(lm, plan, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(SchemaError, match="None"):
        ActivationStore(path)
    _write(lm, plan, path)
    for key, value, said in (
        ("schema_version", layout.VERSION + 1, f"version {layout.VERSION + 1}"),
        ("schema", h5.SCHEMA_PREFIX + "latents", "sae-workbench/latents"),
        ("schema", "other/activations", "other/activations"),
    ):
        with h5py.File(path, "r+") as file:
            old, file.attrs[key] = file.attrs[key], value
        with pytest.raises(SchemaError, match=said):
            ActivationStore(path)
        with h5py.File(path, "r+") as file:
            file.attrs[key] = old
    ActivationStore(path).__exit__()


def test_files_that_reach_outside_themselves_are_refused(lm, plan, tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["doc_id"] = np.zeros(400, np.int32)

    def external_storage(file):
        file.create_dataset("x", (4,), "i4", external=[(str(tmp_path / "raw"), 0, 16)])

    def virtual(file):
        layout = h5py.VirtualLayout((400,), "i4")
        layout[:] = h5py.VirtualSource(other, "doc_id", (400,))
        file.create_virtual_dataset("x", layout)

    for number, (said, change) in enumerate(
        [
            ("ExternalLink", lambda f: f.__setitem__("x", h5py.ExternalLink(other, "doc_id"))),
            ("SoftLink", lambda f: f["acts"].__setitem__("x", h5py.SoftLink("/doc_id"))),
            ("external storage", external_storage),
            ("another folder", virtual),
        ]
    ):
        path = tmp_path / f"{number}.h5"
        _write(lm, plan, path)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(FileFormatError, match=said):
            ActivationStore(path)


def test_missing_and_inconsistent_datasets_are_refused(lm, plan, tmp_path):
    for name in ("doc_id", "acts/layers.0", "acts"):
        path = tmp_path / "a.h5"
        _write(lm, plan, path)
        with h5py.File(path, "r+") as file:
            del file[name]
            h5.seal(file)
        with pytest.raises(SchemaError, match=name.split("/")[-1]):
            ActivationStore(path)
    _write(lm, plan, path)
    with h5py.File(path, "r+") as file:
        del file["position"]
        file["position"] = np.zeros(399, np.int32)
        h5.seal(file)
    with pytest.raises(SchemaError, match="position"):
        ActivationStore(path)


# ------------------------------------------------------------------------------ any of our files
def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "x.h5"
    with pytest.raises(ZeroDivisionError), h5.create(path, "latents", 1, {}):
        raise ZeroDivisionError
    assert not list(path.parent.iterdir())
    attrs = {"list": [1, "a"], "nothing": None, "text": "[not json", "number": np.float32(0.5), "map": {"a": 1}}
    with h5.create(path, "latents", 1, attrs) as file:
        h5.write_array(file, "names", np.array(["a", "東京"]), unit="name", axes=("entity",))
        h5.write_array(file, "empty", np.zeros((0, 3)), unit="one", axes=("row", "d_in"))
        with pytest.raises(ShapeError, match="axes"):
            h5.write_array(file, "bad", np.zeros((2, 2)), unit="one", axes=("row",))
        assert not path.exists()
    with h5.open_checked(path, "latents", 1) as file:
        found = h5.get_attrs(file)
        assert {k: found[k] for k in attrs} == attrs
        assert h5.read_text(h5.dataset_of(file, "names", path)) == ["a", "東京"]
        assert [(d.name, d.shape, d.unit, d.axes) for d in h5_contents.summarize(file)] == [
            ("empty", (0, 3), "one", ("row", "d_in")),
            ("names", (2,), "name", ("entity",)),
        ]


def test_row_fields_in_parts_are_those_in_one_piece(tmp_path):
    values = np.arange(1000, dtype=np.int32)
    for name, parts in (("one", None), ("parts", np.array_split(values, [0, 1, 333, 998]))):
        with h5.create(tmp_path / f"{name}.h5", "latents", 1, {"hook_points": []}) as file:
            file.create_group("acts")
            if parts is None:
                h5.write_array(file, "x", values, unit="index", axes=("row",))
            else:
                h5_chunks.write_blocks(file, "x", parts, 1000, values.dtype, unit="index", axis="row")
    assert _content(tmp_path / "parts.h5") == _content(tmp_path / "one.h5")
    assert h5.CHECKSUM in _content(tmp_path / "one.h5")["/x"][0]


def test_a_plan_on_disk_gives_the_store_of_one_in_memory(lm, plan, tmp_path, small_chunks):
    entities = [Document(f"Yesterday {n} sang", 10 + len(n)) for n in ("Mira Tolvan", "Old Harrow")] * 20
    mixed = {"entity_documents": entities, "frac_entity_rows": 0.05}
    on_disk = plan_windows(map(Document, TEXTS), lm.tokenizer, ctx_len=24, max_rows=400, folder=tmp_path, **mixed)
    assert not isinstance(on_disk.tokens, np.ndarray)
    _write(lm, plan, tmp_path / "memory.h5")
    with pytest.raises(_Stop):
        _write(lm, on_disk, tmp_path / "disk.h5", advance=_stop_after(4))
    _write(lm, on_disk, tmp_path / "disk.h5", resume=True)
    assert _content(tmp_path / "disk.h5") == _content(tmp_path / "memory.h5")
