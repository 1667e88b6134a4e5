"""The benchmark of transcoders on a small store: what is kept, what is not measured twice, and what the page says."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.saes.transcoders import main, page
from sae_train import cache_activations

PLACES = ("layers.1.mlp:in", "layers.1.mlp")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the benchmark and returns its results."""
    store = cache_activations("fact-world", "fact-world", list(PLACES), max_tokens=3000, out=tmp_path / "mlp.h5")
    where = ["--activations", str(store.path), "--hook-point", PLACES[0], "--target-hook-point", PLACES[1]]
    store.close()

    def run(*words: str) -> dict:
        sizes = ["--expansion", "2", "--k", "4", "--batch-size", "256", "--tokens", "5120", "--seeds", "0"]
        monkeypatch.setattr(sys, "argv", ["transcoders", *where, *sizes, "--out", str(tmp_path / "run"), *words])
        main()
        return json.loads((tmp_path / "run" / "results.json").read_text())

    return run


def test_it_learns_the_map_keeps_its_figures_and_says_them(run, tmp_path):
    found = run("--docs", str(tmp_path / "page.md"))
    plain, skip = (f"{kind}, 5,120 tokens/ours" for kind in ("plain", "skip"))
    assert set(found["fvu"]) == {f"{plain}/0", f"{skip}/0"} and set(found["speed"]) == {"plain", "skip"}
    assert set(found["factor"]) == {plain, skip} and set(found["factor"].values()) <= {1.0, 3.0, 10.0}
    assert all(0.0 < value < 0.9 for value in found["fvu"].values()), "1.0 is the output's mean"
    text = (tmp_path / "page.md").read_text()
    row = f"| plain, 5,120 tokens | {found['fvu'][f'{plain}/0']:.4f} | – | {found['factor'][plain]:g} / nan |"
    assert row in text and "192 latents" in text
    (tmp_path / "page.md").write_text(f"{text}\n## What this shows\n\nMuch.\n")
    written = (tmp_path / "run" / "results.json").stat().st_mtime_ns
    assert run("--docs", str(tmp_path / "page.md")) == found
    assert (tmp_path / "run" / "results.json").stat().st_mtime_ns == written, "nothing is measured twice"
    assert (tmp_path / "page.md").read_text() == f"{text}\n## What this shows\n\nMuch.\n"


def test_the_page_compares_with_the_peer_where_there_is_one():
    fvu = {f"plain/{name}/{seed}": value for name, value in (("ours", 0.30), ("sparsify", 0.31)) for seed in (0, 1)}
    about = {"date": "2027-01-01", "cores": 2, "cpu": "some", "flags": [], "versions": {}}
    speed = {"plain": {"step_s": 0.2, "product_s": 0.1, "threads": 1}}
    text = page(
        {
            "machine": about,
            "what": "some model",
            "factor": {"plain/ours": 3.0, "plain/sparsify": 10.0},
            "fvu": fvu,
            "speed": speed,
        },
        "What it is.",
    )
    assert "| plain | 0.3000 ± 0.0000 | 0.3100 ± 0.0000 | 3 / 10 | yes |" in text and "| 2.00 | **no** |" in text
