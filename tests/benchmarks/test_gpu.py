"""The benchmark for a GPU runs where there is none, says what failed, goes on where it stopped, writes one table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.accelerator.measures import Bench
from benchmarks.gpu import main
from sae_train.run.runs import write_json
from sae_train.saes import ARCHS
from sae_train.text_files import read_json

READ = {"rows_per_s": 2e6, "mb_per_s": 100.0, "from_disk": True}


@pytest.fixture
def run(tmp_path: Path):
    """Return a function that runs the benchmark into one folder: exit code and results."""

    def run(*words: str):
        code = main(["--out", str(tmp_path / "run"), "--device", "cpu", "--small", *words])
        return code, read_json(tmp_path / "run" / "results.json")

    run.folder = tmp_path / "run"
    return run


@pytest.fixture
def measures(monkeypatch) -> dict:
    """Measurements in the place of the real ones."""
    cells = {}
    monkeypatch.setattr(Bench, "cells", lambda _self: dict(cells))
    return cells


def test_what_fails_is_said_and_tried_again_and_takes_nothing_with_it(run, measures, capsys):
    def fail() -> dict:
        raise ValueError("a shape that no GPU likes")

    def too_large() -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory")

    measures |= {"reading/1": fail, "reading/2": lambda: READ, "reading/3": too_large}
    code, results = run()
    assert code == 1 and "in fail" in capsys.readouterr().err  # the traceback
    assert "a shape that no GPU likes" in results["cells"]["reading/1"]["left_out"]
    assert results["cells"]["reading/2"] == READ and "failed" not in results["cells"]["reading/3"]
    page = (run.folder / "gpu.md").read_text()
    assert "| reading 1 | – | failed: ValueError: a shape" in page and "| reading 2 | 2,000,000 rows/s |" in page
    measures |= {"reading/1": lambda: READ, "reading/2": fail}  # what is measured is not measured again
    code, results = run()
    assert code == 0 and results["cells"]["reading/1"] == results["cells"]["reading/2"] == READ


def test_no_time_left_measures_nothing_more_and_says_what_is_missing(run, measures):
    measures |= {"reading/1": lambda: READ}
    run()
    measures |= {"reading/2": lambda: READ}
    code, results = run("--minutes", "0")
    assert code == 0 and set(results["cells"]) == {"reading/1"} and results["missing"] == ["reading/2"]
    assert "the time was over: reading/2" in (run.folder / "gpu.md").read_text()


def test_other_sizes_need_a_folder_of_their_own(run, measures):
    measures |= {"reading/1": lambda: READ}
    run()
    write_json(run.folder / "results.json", {**read_json(run.folder / "results.json"), "small": False})
    with pytest.raises(SystemExit):
        run()


@pytest.mark.slow
def test_it_runs_on_a_cpu(run):
    code, results = run()
    cells = results["cells"]
    assert code == 0 and results["missing"] == []
    assert {name.partition("/")[0] for name in cells} == {"parity", "caching", "step", "reading", "peer"}
    assert all("left_out" not in found for name, found in cells.items() if not name.startswith("peer"))
    assert "left_out" not in next(found for name, found in cells.items() if name.startswith("peer/saelens"))
    # The device is the CPU: what is compared with the CPU is equal, and learned something.
    assert cells["parity/caching"]["relative_error"] == 0 and cells["parity/caching"]["n_rows"] > 100
    for arch in ARCHS:
        found = cells[f"parity/{arch}"]
        assert found["fvu"] == found["fvu_cpu"] < 0.9 and found["lowest_cosine"] > 0.9999
    page = (run.folder / "gpu.md").read_text()
    assert all(f"| {name.replace('/', ' ')} |" in page for name in cells)
