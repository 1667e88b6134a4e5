"""`wb train-sae` on rows that are computed as they are needed, and what goes with what."""

from __future__ import annotations

import pytest

RUN = ("--hook-point", "layers.1", "--k", 4, "--d-sae", 64, "--batch-size", 128, "--tokens", 512)


@pytest.mark.parametrize(
    "words",
    [(), ("--model", "fact-world"), ("--text", "fact-world")],
    ids=["neither", "a model alone", "a text alone"],
)
def test_rows_come_from_a_store_or_from_model_and_text(wb, tmp_path, words):
    outcome = wb("train-sae", *words, *RUN, "--out", tmp_path / "sae")
    assert outcome.code == 2 and "--activations, or --model and --text" in outcome.err
    assert not (tmp_path / "sae").exists()


@pytest.mark.slow
def test_training_without_a_store(wb, tmp_path):
    words = ("--model", "fact-world", "--text", "fact-world", "--max-tokens", 3000, "--ctx-len", 64)
    outcome = wb("train-sae", *words, *RUN, "--out", tmp_path / "sae", "--json")
    assert outcome.code == 0, outcome.err
    assert '"fvu"' in outcome.out and (tmp_path / "sae" / "sae_weights.safetensors").is_file()
    assert not list(tmp_path.rglob("*.h5*"))
