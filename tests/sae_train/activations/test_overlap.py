"""Caching overlaps: a forward pass runs while earlier rows are copied and written, and the store is the same."""

from __future__ import annotations

import errno
import threading
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_train.activations import forward, layout
from sae_train.activations.store import ActivationStore
from sae_train.activations.writing.writer import write_store
from sae_train.config import CacheConfig
from sae_train.errors import NumericalError, StoppedError
from sae_train.lm.models import load_lm
from sae_train.storage import h5
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows

TEXTS = [f"The city of Velmora lies on the river Ost. {'Its harbour is old. ' * (n % 5)}Number {n}." for n in range(12)]
CONFIG = CacheConfig(("layers.0", "layers.1.mlp"), ctx_len=32, batch_size=4, dtype="bfloat16")
PATIENCE = 60.0  # seconds after which something that has to happen has not; nothing waits that long where it does


@pytest.fixture(scope="module")
def lm(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.fixture(scope="module")
def plan(lm):
    return plan_windows([Document(text) for text in TEXTS], lm.tokenizer, ctx_len=32, max_rows=1000)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(h5, "CHUNK_BYTES", 16 * 32 * 2)
    monkeypatch.setattr(layout, "COMMIT_EVERY_ROWS", 24)


def write(lm, plan, path: Path, **settings) -> dict[str, torch.Tensor]:
    write_store(lm, plan, CONFIG, path, provenance={"model": "toy", "text": "toy"}, **settings)
    with ActivationStore(path) as store:
        return {name: store.rows(name, slice(0, store.n_rows)) for name in CONFIG.hook_points}


def test_the_next_forward_pass_begins_while_rows_are_written(lm, plan, tmp_path, monkeypatch):
    forwards, begun = [], [threading.Event() for _ in range(-(-plan.n_windows // 4) + 1)]
    capture, add = forward.capture, layout.RowWriter.add
    written = []

    def capturing(*args):
        begun[len(forwards)].set()
        forwards.append(1)
        return capture(*args)

    def adding(self, acts):
        assert begun[min(len(written) + 1, len(begun) - 2)].wait(PATIENCE)  # without overlap it would never begin
        add(self, acts)
        written.append(1)

    monkeypatch.setattr(forward, "capture", capturing)
    monkeypatch.setattr(layout.RowWriter, "add", adding)
    write(lm, plan, tmp_path / "acts.h5")
    assert len(written) == len(forwards) == -(-plan.n_windows // 4) > 3


def test_an_error_of_the_writer_stops_the_run_at_once_and_can_be_continued(lm, plan, tmp_path, monkeypatch):
    expected = write(lm, plan, tmp_path / "straight.h5")
    add, forwards, n_added = layout.RowWriter.add, [], []

    def full(self, acts):
        n_added.append(1)
        if len(n_added) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, acts)

    capture = forward.capture
    monkeypatch.setattr(forward, "capture", lambda *args: forwards.append(1) or capture(*args))
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(layout.RowWriter, "add", full)
        write(lm, plan, tmp_path / "acts.h5")
    assert len(n_added) == 2  # no row behind the ones that are missing
    assert len(forwards) <= 4 < plan.n_windows // 4
    assert not (tmp_path / "acts.h5").exists()
    found = write(lm, plan, tmp_path / "acts.h5", resume=True)
    for name, rows in expected.items():
        assert torch.equal(found[name], rows)


def test_rows_that_cannot_be_stored_leave_nothing_behind(lm, plan, tmp_path, monkeypatch):
    capture = forward.capture
    monkeypatch.setattr(forward, "capture", lambda *args: {n: a / 0 for n, a in capture(*args).items()})
    with pytest.raises(NumericalError, match="rows with NaN or Inf"):
        write(lm, plan, tmp_path / "acts.h5")
    assert [path.name for path in tmp_path.glob("acts.h5*") if path.suffix != ".lock"] == []


def test_on_a_device_rows_travel_unwaited_for_and_are_the_same(lm, plan, tmp_path, request):
    expected = write(lm, plan, tmp_path / "cpu.h5")
    device = request.getfixturevalue("accelerator")
    there = replace(lm, model=deepcopy(lm.model).to("cuda"), device=torch.device("cuda"))
    runner = forward.BatchRunner(there, plan, CONFIG.hook_points, 4, "bfloat16")
    device.waits.clear()
    batches = list(runner.run(0, plan.n_rows))
    # Only transformers itself looks at the mask, before its first block.
    assert all("hooks.py" in line for line in device.waits), device.waits
    assert all(part._rows["layers.0"].isnan().all() for batch in batches for part in batch.parts)  # on their way
    found = forward.joined([batch.arrived() for batch in batches])
    for name, rows in expected.items():
        assert found[name].dtype == torch.bfloat16  # half the bytes
        torch.testing.assert_close(found[name].float(), rows, rtol=2**-7, atol=1e-6)
    part = batches[0].parts[0]
    part._largest["layers.0"] = torch.tensor(torch.inf)
    with pytest.raises(NumericalError):
        part.arrived()
