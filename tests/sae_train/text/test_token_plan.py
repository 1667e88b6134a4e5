"""The token plan on disk: the plan that memory would hold, in memory that does not grow with it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from sae_train.activations.writing.writer import plan_hash
from sae_train.lm.models import load_lm
from sae_train.storage import arrays
from sae_train.storage.arrays import ArrayWriter
from sae_train.text import token_plan, windows
from sae_train.text.token_plan import ROW_FIELDS, PlanWriter, Window
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows, shuffled_windows

TEXTS = [f"The city of Velmora lies on the river Ost. {'Its harbour is old. ' * (n % 7)}Number {n}." for n in range(90)]
NAMES = [Document(f"Yesterday {n} sang", 10 + len(n)) for n in ("Mira Tolvan", "Old Harrow")] * 30
MIXED = {"entity_documents": NAMES, "frac_entity_rows": 0.1}
# Hashes of the plans, and of the same windows shuffled, as the version made them that kept all windows in memory.
MADE_BEFORE = [
    ({"ctx_len": 16}, "dab9fd1a23195784", "3430b2b23baacbf9"),
    ({"ctx_len": 16, "packing": "packed", "max_rows": 901}, "3c9974d9f7e64294", "bb380c9403a96c7b"),
    ({"ctx_len": 16, **MIXED, "seed": 3}, "17173201e4ae8591", "783ef36557db9b4a"),
    ({"ctx_len": 12, **MIXED, "max_rows": 700, "packing": "packed", "seed": 1}, "fcd12ef4c3f4a817", "2f3cec5b3a84703e"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_lm("fact-world", device="cpu").tokenizer


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks, in planning and in going through the plan."""
    monkeypatch.setattr(windows, "SORT_WINDOWS", 32)
    monkeypatch.setattr(arrays, "BLOCK_VALUES", 50)


@pytest.mark.parametrize("number", range(len(MADE_BEFORE)))
def test_a_plan_is_the_same_on_disk_in_memory_and_as_ever(number, tokenizer, small_blocks, tmp_path):
    settings, planned, shuffled = MADE_BEFORE[number]
    for folder in (None, tmp_path):
        plan = plan_windows(map(Document, TEXTS), tokenizer, **settings, folder=folder)
        assert isinstance(plan.tokens, np.ndarray) == (folder is None)
        assert plan_hash(plan)[:16] == planned
        assert plan_hash(shuffled_windows(plan, 5, folder))[:16] == shuffled
        kept = np.asarray(plan.keep)
        lengths = np.diff(np.asarray(plan.starts))
        fields = plan.row_fields()
        assert np.array_equal(fields["token_id"], np.asarray(plan.tokens)[kept])
        assert np.array_equal(fields["from_entity"], np.repeat(np.asarray(plan.from_entity), lengths)[kept])
        assert (plan.n_rows, plan.n_entity_rows) == (kept.sum(), fields["from_entity"].sum())
        of_window = np.repeat(np.arange(plan.n_windows), lengths)
        assert np.array_equal(np.diff(np.asarray(plan.rows_before)), np.bincount(of_window, weights=kept))
    assert not list(tmp_path.iterdir())  # no file of it has a name, so that a kill leaves none


def _peak_bytes(n_windows: int, folder) -> int:
    """Make a plan of windows of 64 tokens, shuffle it, and go through all of it; return the largest use of memory."""
    window = Window(*(np.ones(64, dtype=kind) for kind in (np.int32, bool, np.int32, np.int32)), False, 1)
    tracemalloc.start()
    writer = PlanWriter(folder)
    for start in range(0, n_windows, 32):
        writer.add([window] * min(32, n_windows - start))
    plan = shuffled_windows(writer.plan(n_special=0, n_prefix=1), 0, folder)
    plan_hash(plan)
    n_rows = sum(len(block) for name in ROW_FIELDS for block in plan.row_blocks(name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_rows == 4 * plan.n_rows == 4 * 64 * n_windows
    return peak


def test_memory_does_not_grow_with_a_plan_on_disk(tmp_path, small_blocks):
    _peak_bytes(64, tmp_path)  # what is made once
    few, many = (_peak_bytes(n, tmp_path) for n in (256, 2048))
    # The drawn order alone is as long as the plan; beside it there is what the interpreter has not collected yet.
    assert many - few < 1792 * 64 * 13 / 4
    assert _peak_bytes(2048, None) - _peak_bytes(256, None) > 1792 * 64 * 13


def test_parts_of_an_array_in_a_file_are_those_of_one_in_memory(tmp_path):
    whole, writer = np.arange(0, 700, 7), ArrayWriter(np.int64, tmp_path)
    for part in np.array_split(whole, [3, 3, 50]):
        writer.add(part)
    found = writer.array()
    assert not isinstance(found, np.ndarray) and (found.shape, found.dtype, len(found)) == ((100,), whole.dtype, 100)
    for index in (
        0,
        -1,
        np.int64(7),
        slice(2, 9),
        slice(90, 200),
        slice(40, 40),
        slice(30, 2, -3),
        slice(None, None, 9),
    ):
        assert np.array_equal(found[index], whole[index]), index
    assert np.array_equal(np.asarray(found), whole) and np.asarray(found, dtype=np.float32).dtype == np.float32
    found[2:5][:] = 0  # what is read is the reader's own
    assert np.array_equal(np.asarray(found), whole)
    with pytest.raises(IndexError):
        found[100]


def test_a_plan_of_no_windows_takes_none():
    writer = PlanWriter(None)
    writer.add([])
    assert (writer.n_windows, writer.plan(n_special=0, n_prefix=1).n_rows, token_plan.ROW_FIELDS) == (0, 0, ROW_FIELDS)
