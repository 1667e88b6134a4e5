"""`wb unlearn --plan`: hands on what the removal would get, less where results go, and prints the plan."""

from __future__ import annotations

import json

import pytest

from cli.main import main
from unlearn.finetuning.step_plan import StepPlan


@pytest.fixture
def words(tmp_path):
    (tmp_path / "sae").mkdir()
    files = {name: tmp_path / name for name in ("latents.h5", "labels.jsonl")}
    for path in files.values():
        path.write_text("")
    named = ["--sae", tmp_path / "sae", "--latents", files["latents.h5"], "--labels", files["labels.jsonl"]]
    named += ["--templates", "fact-world", "--text", "fact-world", "--forget", "Somebody", "--out", tmp_path / "out"]
    return [str(word) for word in ["unlearn", "--model", "fact-world", *named, "--steps", "7", "--method", "npo"]]


def test_the_plan_is_printed_and_nothing_is_written(words, tmp_path, monkeypatch, capsys):
    asked = {}

    def plan(model, **given):
        asked.update(given, model=model)
        return StepPlan(given["config"].steps, 3.5, 300 * 2**20, 100 * 2**20, 1000)

    monkeypatch.setattr("unlearn.plan_unlearning", plan, raising=False)
    monkeypatch.setattr("unlearn.unlearn", lambda *_args, **_given: pytest.fail("a plan does nothing"), raising=False)
    assert not main([*words, "--plan", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 7 and found["in_weights"] == 3.0 and found["memory_bytes"] == 300 * 2**20
    assert asked["config"].method == "npo" and not {"out", "overwrite", "resume", "wandb"} & set(asked)
    assert not main([*words, "--plan"])
    assert "300" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
