"""The page of a training run, what it reads, and wandb beside it."""

from __future__ import annotations

import json
import re

import pytest
import torch

from features.pages.training_page import read_log, write_training_page
from features.pages.training_plots import density_bars
from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, FileFormatError, MissingFileError
from sae_train.run import tracking
from sae_train.run.runs import Run
from sae_train.training.jobs import train_one

torch.set_num_threads(1)
SIZES = {"k": 3, "d_sae": 48, "batch_size": 16, "lr": 3e-3, "frac_holdout": 0.1}


@pytest.fixture
def trained(make_store, tmp_path):
    rows = torch.randn(600, 16, generator=torch.Generator().manual_seed(0)) + 1

    def train(arch: str = "topk", steps: int = 60, **how):
        config = SaeTrainConfig("layers.0", arch=arch, tokens=16 * steps, eval_every=25, **SIZES)
        with ActivationStore(make_store(rows)) as store:
            train_one(store, config, tmp_path / "a<b", device="cpu", **how)
        return tmp_path / "a<b"

    return train


@pytest.mark.parametrize("arch", ["topk", "relu", "matryoshka"])
def test_the_page_shows_curves_figures_and_settings(trained, arch):
    folder = trained(arch)
    log = read_log(folder)
    assert [line["step"] for line in log["train"]] == [25, 50, 60] and len(log["heldout"]) == 2
    assert {"tokens", "lr", "l0", "loss", "frac_dead"} <= set(log["train"][0])
    assert log["train"][-1]["lr"] < log["train"][0]["lr"] and log["train"][0]["tokens"] == 400
    page = write_training_page(folder).read_text(encoding="utf-8")
    result = json.loads((folder / "metrics.json").read_text())
    for name in ("fvu", "l2_ratio"):
        assert f"{result[f'{name}_low']:.4g} to {result[f'{name}_high']:.4g}" in page
    assert "a&lt;b" in page and "a<b" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page), "nothing is loaded from elsewhere"
    terms = set(log["train"][0]) - {"step", "tokens"}
    n_curves = len(terms | {"fvu"})  # an architecture without FVU in its loss shows the held-out one
    assert page.count("<figure") == n_curves + 1
    assert len(set(re.findall(r'\bid="([^"]+)"', page))) == len(re.findall(r'\bid="([^"]+)"', page)), "ids are unique"


def test_steps_that_were_logged_twice_count_once(trained):
    folder = trained()
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 50, "tokens": 800, "loss": 0.125, "fvu": 0.5}\n')
    assert [line["loss"] for line in read_log(folder)["train"] if line["step"] == 50] == [0.125]
    (folder / "metrics.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(FileFormatError, match="line 1"):
        read_log(folder)
    (folder / "metrics.json").unlink()
    (folder / "metrics.jsonl").write_text('{"step": 1, "tokens": 16, "loss": 1}\n')
    with pytest.raises(MissingFileError, match="metrics.json"):
        write_training_page(folder)


def test_a_density_says_who_never_fires():
    assert "7 never; 3 from 1 % to 10 %" in density_bars("d", (-3.0, -2.0, -1.0, 0.0), (0, 3, 0), 7)


class _Recorded:
    """Stands in for wandb's sink."""

    made: list[_Recorded] = []  # noqa: RUF012

    def __init__(self, project, *, name, run_id, config):
        self.project, self.run_id, self.config, self.lines, self.summary = project, run_id, config, [], None
        self.record = {"project": project, "id": run_id, "at": "nowhere"}
        self.made.append(self)

    def log(self, values):
        self.lines.append(values)

    def finish(self, result):
        self.summary = result


def test_wandb_is_told_what_the_log_says_and_a_resumed_run_goes_on_in_its_own(trained, monkeypatch):
    monkeypatch.setattr(tracking, "WandbSink", _Recorded)
    _Recorded.made.clear()
    folder = trained(wandb="mine")
    (sink,) = _Recorded.made
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert json.loads(json.dumps([{**v, "density": None} for v in sink.lines])) == [
        {**v, "density": None} for v in lines
    ]
    assert sink.summary["fvu"] == json.loads((folder / "metrics.json").read_text())["fvu"]
    assert sink.config["k"] == 3 and json.loads((folder / "run.json").read_text())["wandb"]["id"] == sink.run_id
    for project in ("mine", "other"):
        Run(folder, config={}, command="again", inputs={}, wandb=project)
    assert _Recorded.made[1].run_id == sink.run_id != _Recorded.made[2].run_id


@pytest.mark.slow
def test_wandb_offline_and_without_a_login(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    import wandb

    wandb.teardown()
    folder = trained(wandb="mine")
    record = json.loads((folder / "run.json").read_text())["wandb"]
    (made,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert record["project"] == "mine" and record["id"] in made.name
    wandb.teardown()  # its service writes behind a buffer; the file is whole when it has ended
    content = made.read_bytes()
    assert all(name in content for name in (b"heldout/fvu", b"frac_dead", b"trained_tokens"))
    assert capfd.readouterr().out == "", "stdout belongs to the result"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="cannot log to wandb"):
        Run(tmp_path / "new", config={}, command="x", inputs={}, wandb="mine")
    assert not (tmp_path / "new").exists()
    wandb.teardown()
