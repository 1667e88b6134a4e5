"""Several SAEs in one run: the weights each would have alone, rows read once, and what goes wrong with one or all."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, MemoryShortError, NumericalError
from sae_train.run.checkpoints import CHECKPOINT, load_checkpoint
from sae_train.run.processes import Processes
from sae_train.run.runs import jsonable
from sae_train.saes.base import Sae
from sae_train.saes.interop import WEIGHTS
from sae_train.training import jobs as trainer
from sae_train.training.grid import sae_jobs
from sae_train.training.jobs import train_jobs, train_one
from sae_train.training.loss_watch import REMEMBERED, LossWatch
from sae_train.training.sae_run import Training

torch.set_num_threads(1)
SETTINGS = {"d_sae": 48, "batch_size": 64, "tokens": 640, "lr": 3e-3, "lr_warmup_steps": 2, "frac_holdout": 0.1}
OPTIONS = ("hook_points", "k", "expansion", "seed")


class _Stop(BaseException):
    """As a KeyboardInterrupt."""


@pytest.fixture
def store(make_store):
    generator = torch.Generator().manual_seed(3)
    rows = 4 * torch.randn(600, 8, generator=generator).relu() @ torch.randn(8, 32, generator=generator) + 1
    with ActivationStore(make_store(rows)) as opened:
        yield opened


def _jobs(out: Path, **changes):
    lists = {"hook_points": ["layers.0"], "k": [3], "expansion": [8], "seed": [0]}
    return sae_jobs(out, **{**lists, **SETTINGS, **changes})


def _weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


# ------------------------------------------------------------------------------ together and alone
def test_each_has_the_weights_it_would_have_alone_and_rows_are_read_once(store, tmp_path, monkeypatch):
    read, real = [], store.chunk
    monkeypatch.setattr(store, "chunk", lambda name, index: read.append(index) or real(name, index))
    jobs = _jobs(tmp_path / "all", k=[3, 5], seed=[0, 1], save_every=4)
    results = train_jobs(store, jobs, tmp_path / "all", device="cpu")
    n_together = len(read)
    assert [job.out.name for job in jobs] == ["k3-seed0", "k3-seed1", "k5-seed0", "k5-seed1"]
    for job, result in zip(jobs, results, strict=True):
        read.clear()
        alone = train_one(store, job.config, tmp_path / job.out.name, device="cpu")
        assert _weights(job.out) == _weights(tmp_path / job.out.name)
        assert jsonable({**alone, "tokens_per_s": 0}) == {**result, "tokens_per_s": 0}
        assert not (job.out / CHECKPOINT).exists() and json.loads((job.out / "run.json").read_text())["ended"]
    n_alone = len(read)
    held_out = len({row // 16 for row in range(600) if store.holdout_rows(0.1, 0)[row]})
    assert n_together == n_alone + 3 * held_out  # only the evaluations at the end read for each
    assert len({_weights(job.out) for job in jobs}) == 4
    summary = json.loads((tmp_path / "all" / "metrics.json").read_text())["saes"]
    assert [entry["out"] for entry in summary] == [job.out.name for job in jobs]


def test_a_stopped_run_continues_all_of_them_wherever_each_stood(store, tmp_path):
    """One is finished, one stopped at its checkpoint, one lost its checkpoint: as after a kill between two writes."""
    whole, out = _jobs(tmp_path / "whole", k=[3, 5, 7], save_every=4), tmp_path / "out"
    train_jobs(store, whole, tmp_path / "whole", device="cpu")
    jobs, calls = _jobs(out, k=[3, 5, 7], save_every=4), iter(range(3 * 6 - 1))

    def stop(_n=1, **_info):
        if next(calls, None) is None:
            raise _Stop

    with pytest.raises(_Stop):
        train_jobs(store, jobs, out, device="cpu", advance=stop)
    assert load_checkpoint(jobs[1].out, {})[1] == 4
    (jobs[0].out / CHECKPOINT).unlink()
    train_one(store, jobs[2].config, jobs[2].out, device="cpu", resume=True)
    finished = (jobs[2].out / "run.json").read_bytes()
    seen, skipped = [], []

    def told(n, *, earlier=0, **_info):
        (skipped if earlier else seen).append(n + earlier)

    train_jobs(store, jobs, out, device="cpu", resume=True, advance=told)
    assert skipped == [(0 + 4 + 10) * 64]  # so that 16 steps of 30 more make the display full
    assert len(seen) == 10 + 6 and (jobs[2].out / "run.json").read_bytes() == finished
    assert [_weights(job.out) for job in jobs] == [_weights(job.out) for job in whole]
    changed = _jobs(out, k=[3, 5, 7], tokens=1280)
    with pytest.raises(ConfigError, match=r"1280[\s\S]*640"):
        train_jobs(store, changed, out, device="cpu", resume=True)


def test_processes_that_divide_the_saes_train_each_of_them_once(store, tmp_path, monkeypatch):
    """Nobody waits in one process: the two run one after the other, the second finds what the first has written."""
    monkeypatch.setattr(Processes, "wait", lambda self: None)
    jobs = _jobs(tmp_path / "two", k=[3, 5, 7])
    trained, real = [], trainer._train_together
    monkeypatch.setattr(
        trainer,
        "_train_together",
        lambda s, group, *a, **k: trained.append([j.out.name for j in group]) or real(s, group, *a, **k),
    )
    for rank in (1, 0):
        train_jobs(store, jobs, tmp_path / "two", device="cpu", processes=Processes(rank, 2), spread="saes")
    assert trained == [["k7"], ["k3", "k5"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": [3, 3]}, r"\(k\)"),
        ({"hook_points": []}, "hook_point"),
        ({"expansion": [2, 4]}, "d_sae"),
        ({"k": [3, 0]}, r"\(k\)"),
        ({"accumulate": 3}, "accumulate"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        _jobs(tmp_path, **changes)


def test_one_that_cannot_be_trained_stops_all_before_anything_is_written(store, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="k 49"):
        train_jobs(store, _jobs(tmp_path / "a", k=[3, 49]), tmp_path / "a", device="cpu")
    with pytest.raises(ConfigError, match="batch_size"):
        train_one(store, _jobs(tmp_path / "a")[0].config, tmp_path / "a", device="cpu", processes=Processes(0, 3))
    with pytest.raises(ConfigError, match="spread"):
        train_jobs(store, _jobs(tmp_path / "a"), tmp_path / "a", device="cpu", processes=Processes(0, 2), spread="saes")
    monkeypatch.setattr(trainer, "ADAM_BYTES", 10**12)
    with pytest.raises(MemoryShortError, match="GiB"):
        train_jobs(store, _jobs(tmp_path / "a", k=[3, 5]), tmp_path / "a", device="cpu")
    assert not (tmp_path / "a").exists()


# ------------------------------------------------------------------------------ micro batches
@pytest.mark.parametrize("arch", ["topk", "batch-topk", "matryoshka", "relu", "jumprelu"])
def test_a_run_in_micro_batches_is_nearly_the_undivided_one(store, tmp_path, arch):
    """Exactly so but for rounding, which few steps do not multiply, where the loss is a mean over tokens."""
    config = replace(_jobs(tmp_path)[0].config, arch=arch, dead_after_tokens=10**6)
    undivided = train_one(store, config, tmp_path / "one", device="cpu")
    divided = train_one(store, replace(config, accumulate=4), tmp_path / "four", device="cpu")
    one, four = (load_file(tmp_path / name / WEIGHTS)["W_dec"] for name in ("one", "four"))
    if arch in ("topk", "relu"):
        torch.testing.assert_close(one, four, rtol=0, atol=1e-4)
    assert not torch.equal(one, four)
    assert divided["fvu"] == pytest.approx(
        undivided["fvu"], rel=0.15 if arch == "jumprelu" else 0.05
    )  # 16 tokens a part
    last = json.loads((tmp_path / "four" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss"] == pytest.approx(
        json.loads((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()[-1])["loss"], rel=0.15
    )


def test_a_run_in_bfloat16_is_recorded_and_learns(store, tmp_path):
    config = replace(_jobs(tmp_path)[0].config, arch="relu")
    exact = train_one(store, config, tmp_path / "a", device="cpu")
    low = train_one(store, replace(config, autocast=True), tmp_path / "b", device="cpu")
    assert low["fvu"] == pytest.approx(exact["fvu"], rel=0.05) and low["fvu"] != exact["fvu"]
    assert {t.dtype for t in load_file(tmp_path / "b" / WEIGHTS).values()} == {torch.float32}


# ------------------------------------------------------------------------------ runs that go wrong
def test_a_step_size_far_too_large_stops_the_run(store, tmp_path):
    config = SaeTrainConfig("layers.0", k=3, save_every=3, **{**SETTINGS, "tokens": 6400, "lr": 1e4, "d_sae": 64})
    with pytest.raises(NumericalError, match=r"explodes at step"):
        train_one(store, config, tmp_path / "a", device="cpu")
    assert not (tmp_path / "a" / WEIGHTS).exists() and not (tmp_path / "a" / CHECKPOINT).exists()
    assert not list((tmp_path / "a").glob("*.partial"))


def test_an_exploding_run_keeps_the_checkpoint_before_it(store, tmp_path, monkeypatch):
    config = replace(_jobs(tmp_path)[0].config, tokens=64 * 60, save_every=2, arch="relu", l1_coefficient=0.1)
    from sae_train.training import step as train_step

    real = train_step.lr_factor
    monkeypatch.setattr(train_step, "lr_factor", lambda step, *a: 1e6 if step == 42 else real(step, *a))
    with pytest.raises(NumericalError, match="explodes at step 44"):  # the first loss with the weights of step 43
        train_one(store, config, tmp_path / "a", device="cpu")
    assert load_checkpoint(tmp_path / "a", {})[1] == 42


def test_a_run_in_which_nothing_fires_any_more_is_stopped(store, tmp_path, monkeypatch):
    """Biases far below every pre-activation: no gradient will ever bring a latent back."""
    real = Sae.init_weights

    def drowned(self, center, seed):
        real(self, center, seed)
        with torch.no_grad():
            self.b_enc -= 100

    monkeypatch.setattr(Sae, "init_weights", drowned)
    config = replace(_jobs(tmp_path)[0].config, arch="relu", tokens=64 * 60, dead_after_tokens=640, save_every=5)
    with pytest.raises(NumericalError, match=r"all latents are dead at step 1[0-5]"):
        train_one(store, config, tmp_path / "a", device="cpu")
    assert not (tmp_path / "a" / WEIGHTS).exists() and load_checkpoint(tmp_path / "a", {})[1] == 10


def test_what_counts_as_an_explosion(tmp_path):
    def looks(*errors: float) -> int:
        watch = LossWatch(tmp_path)
        for step, error in enumerate(errors):
            try:
                watch.check({"loss": 1e9, "fvu": error, "frac_dead": 0.0}, step)
            except NumericalError:
                return step
        return -1

    assert looks(225.0, 9.0, 0.9, 0.1, 0.5, 0.99) == -1  # a start above one, then a setback to no worse than the mean
    assert looks(0.9, 0.09, 0.09, 0.09, 1.01) == 4  # above one and above ten times 0.09
    assert looks(0.9, 0.3, 0.3, 0.3, 2.9) == -1 and looks(0.9, 0.3, 0.3, 0.3, 3.1) == 4
    assert looks(*[200.0] + [0.2] * REMEMBERED, 2.1) == REMEMBERED + 1  # the start is forgotten


def test_a_store_of_another_width_is_refused_at_resume(store, make_store, tmp_path):
    config, calls = _jobs(tmp_path, save_every=2)[0].config, iter(range(4))

    def stop(_n=1, **_info):
        if next(calls, None) is None:
            raise _Stop

    with pytest.raises(_Stop):
        train_one(store, config, tmp_path / "a", device="cpu", advance=stop)
    rows = torch.randn(600, 33, generator=torch.Generator().manual_seed(0))
    with ActivationStore(make_store(rows, name="b.h5")) as other, pytest.raises(ConfigError, match=r"33[\s\S]*32"):
        train_one(other, config, tmp_path / "a", device="cpu", resume=True)


# ------------------------------------------------------------------------------ command line
def test_the_command_takes_lists_from_the_command_line_and_from_a_file(store, wb, tmp_path, monkeypatch):
    pages: list[str] = []  # drawing them takes most of the time; what is in one: tests/features/pages/test_training.py
    monkeypatch.setattr("cli.output.sae_tables.write_training_page", lambda folder: pages.append(folder.name))
    words = ["--activations", store.path, "--hook-point", "layers.0", "--tokens", 640, "--batch-size", 64, "--json"]
    (tmp_path / "run.toml").write_text('k = [3, 5]\nexpansion = 2\nseed = [4]\nfrac-holdout = 0.1\ndevice = "cpu"\n')
    outcome = wb("train-sae", *words, "--config", tmp_path / "run.toml", "--out", tmp_path / "two")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert [(s["hook_point"], s["k"], s["d_sae"], s["seed"]) for s in found["saes"]] == [
        ("layers.0", 3, 64, 4),
        ("layers.0", 5, 64, 4),
    ]
    assert all({"fvu", "l0", "frac_dead", "n_tokens", "tokens_per_s"} <= set(s) for s in found["saes"])
    assert pages == ["k3", "k5"]
    words = [*words[:-1], "--k", 3, "--expansion", 2, "--seed", 4, "--frac-holdout", 0.1, "--device", "cpu"]
    alone = wb("train-sae", *words, "--out", tmp_path / "one")
    assert alone.code == 0 and "tokens_per_s" in alone.out
    assert _weights(tmp_path / "one") == _weights(tmp_path / "two" / "k3")
    again = wb("train-sae", *words, "--k", 5, "--out", tmp_path / "two", "--resume")
    assert again.code == 2 and "finished" in again.err
    impossible = wb("train-sae", *words, "--k", 999, "--out", tmp_path / "two", "--overwrite")
    assert impossible.code == 2 and (tmp_path / "two" / "k3" / WEIGHTS).exists(), "bad input costs no earlier output"
    table = wb("train-sae", *words, "--k", 5, "--out", tmp_path / "two", "--overwrite")
    assert table.code == 0 and "k3" in table.out and "k5" in table.out
    assert pages == ["k3", "k5", "one", "k3", "k5"]


def test_a_resumed_command_shows_what_was_done_before(store, wb, tmp_path, monkeypatch):
    """Stopped in step 7 of 10, the checkpoint at 4: the display starts at 4 x 64 rows and ends full."""
    words = ["--activations", store.path, "--hook-point", "layers.0", "--k", 3, "--expansion", 2, "--tokens", 640]
    words += ["--batch-size", 64, "--save-every", 4, "--device", "cpu", "--json", "--out", tmp_path / "a"]
    real = Training.train

    def stop_at_seven(training, acts):
        if training.state.step == 6:
            raise KeyboardInterrupt
        return real(training, acts)

    monkeypatch.setattr(Training, "train", stop_at_seven)
    assert wb("train-sae", *words).code == 130
    monkeypatch.setattr(Training, "train", real)
    calls = []
    show = nullcontext(lambda n=1, *, earlier=0, **_: calls.append((n, earlier)))
    monkeypatch.setattr("sae_train.training.stations.shown", lambda *_, **__: show)
    outcome = wb("train-sae", *words, "--resume")
    assert outcome.code == 0, outcome.err
    assert calls == [(0, 4 * 64)] + [(64, 0)] * 6
