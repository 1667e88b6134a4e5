"""`wb inspect` on stores without a language model: tables, JSON, page, comparison, exit codes."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch

from sae_train.activations import layout
from sae_train.storage import h5
from sae_train.storage.checksums import array_checksum

torch.set_num_threads(1)
N = 200


@pytest.fixture
def stores(make_store):
    """Two stores of the same rows, `b.h5` moved by a tenth."""
    x = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))
    fields = {"token_id": np.arange(N) % 9, "position": np.arange(N) % 10}
    return make_store(x, name="a.h5", **fields), make_store(x * 1.1, name="b.h5", **fields)


def test_tables_fit_a_terminal(stores, wb, tmp_path):
    outcome = wb("inspect", stores[0], "--against", stores[1], "--verify", "--model", "fact-world")
    assert outcome.code == 0, outcome.err
    for title in ("Counts", "Row norms", "Spread", "Massive", "Tokens", "Drift", "Against", "Verification"):
        assert title in outcome.out
    lines = outcome.out.replace(str(tmp_path), "").splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100


def test_json_holds_statistics_and_comparison(stores, wb):
    found = json.loads(wb("inspect", stores[0], "--against", stores[1], "--json").out)
    stats = found["statistics"]["layers.0"]
    assert {"norm_percentiles", "massive_dims", "spectrum", "duplicates", "positions", "top_tokens"} <= set(stats)
    assert len(stats["dimensions"]["mean"]) == 8
    compared = found["comparison"]["hook_points"]["layers.0"]
    assert compared["has_same_rows"] and compared["cka"] == pytest.approx(1)
    assert compared["row_change"]["mean"] == pytest.approx(0.1, rel=1e-4)


def test_the_page_is_written_once(stores, wb, tmp_path):
    page = tmp_path / "out" / "a.html"
    outcome = wb("inspect", stores[0], "--html", page, "--json")
    assert outcome.code == 0 and json.loads(outcome.out)["html"] == str(page)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    page.write_text("mine", encoding="utf-8")
    refused = wb("inspect", stores[0], "--html", page)
    assert refused.code == 2 and page.read_text(encoding="utf-8") == "mine"
    assert f"{page} (--html)" in refused.err and "--resume" not in refused.err
    assert wb("inspect", stores[0], "--html", page, "--overwrite").code == 0
    assert page.read_text(encoding="utf-8") != "mine"
    assert wb("inspect", stores[0], "--html", tmp_path / "out", "--overwrite").code == 2


def test_a_broken_rule_ends_in_exit_code_2(stores, wb):
    with h5py.File(stores[0], "r+") as file:
        file["doc_id"][3] = -4
        file["doc_id"].attrs[h5.CHECKSUM] = f"{array_checksum(file['doc_id'][()]):016x}"
        h5.seal(file)
    assert wb("inspect", stores[0]).code == 0
    outcome = wb("inspect", stores[0], "--verify", "--json")
    assert outcome.code == 2
    assert json.loads(outcome.out)["violations"] == ["doc_id: 1 of 200 rows out of range, expected 0 or more"]
    assert "doc_id: 1 of 200" in outcome.err


def test_what_cannot_be_compared_is_said_in_the_house_form(stores, make_store, wb, tmp_path):
    narrow = make_store(torch.ones(N, 3), name="narrow.h5")
    (tmp_path / "text.h5").write_text("no", encoding="utf-8")
    for other, said in ((narrow, "different widths"), (tmp_path / "text.h5", "cannot open"), ("none.h5", "none.h5")):
        outcome = wb("inspect", stores[0], "--against", other)
        assert outcome.code == 2 and outcome.out == ""
        assert said in outcome.err and "got:" in outcome.err and "expected:" in outcome.err
    assert wb("inspect", stores[0], "--model", tmp_path / "no-model").code == 2


def test_an_unfinished_store_cannot_be_compared(stores, wb, tmp_path):
    path = tmp_path / "half.h5"
    attrs = {"hook_points": ["layers.0"], "dtype": "float32", "n_rows": 4, "rows_committed": 0, "complete": False}
    with h5.create(path, layout.SCHEMA, layout.VERSION, attrs) as file:
        layout.write_row_fields(file, lambda _: [np.zeros(4, np.int32)], 4)
        layout.allocate_acts(file, ("layers.0",), 4, 3, "float32")
    assert wb("inspect", path).code == 0
    assert "not finished" in wb("inspect", path, "--against", stores[0]).err
