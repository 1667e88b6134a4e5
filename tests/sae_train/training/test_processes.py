"""Real processes: twenty kills of `wb train-sae`, and two that train together. Children share one server's imports."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

from sae_train.run.checkpoints import CHECKPOINT, load_checkpoint
from sae_train.saes.interop import WEIGHTS

pytestmark = pytest.mark.slow
N_KILLS = 20


@pytest.fixture
def acts(make_store) -> Path:
    generator = torch.Generator().manual_seed(3)
    rows = 4 * torch.randn(2000, 8, generator=generator).relu() @ torch.randn(8, 32, generator=generator) + 1
    return make_store(rows, chunk_rows=100)


def _words(acts: Path, out: Path, *more: object) -> list[object]:
    sizes = ["--d-sae", 64, "--batch-size", 64, "--lr", 3e-3, "--lr-warmup-steps", 2]
    return [
        "train-sae",
        "--activations",
        acts,
        "--hook-point",
        "layers.0",
        "--device",
        "cpu",
        *sizes,
        *more,
        "--out",
        out,
    ]


def _end(child, start, expected: int = 0) -> None:
    child.join(120)
    assert child.exitcode == expected, start.log.read_text()[-3000:]


# ------------------------------------------------------------------------------ kills
def test_twenty_kills_at_random_moments_change_no_bit(start, acts, tmp_path):
    """Two SAEs side by side, a checkpoint every third step, so that many kills come while one is written.

    Moments are counted, not timed (fixtures_processes.py). Every fourth kill is one of the first three of its run.
    """
    options = ["--k", 3, "--k", 5, "--tokens", 64 * 900, "--dead-after-tokens", 640, "--save-every", 3, "--json"]
    counted = tmp_path / "moments.txt"
    _end(start(*_words(acts, tmp_path / "whole", *options), count_to=counted), start)
    # A run that was killed counts anew: all kills together stay within the moments of one that was not.
    latest = int(counted.read_text()) // N_KILLS
    moments, reached, out = random.Random(0), [], tmp_path / "killed"
    for n in range(N_KILLS):
        moment = moments.randint(1, 3 if n % 4 == 3 else latest)
        words = [*_words(acts, out, *options), *(["--resume"] if n and out.exists() else [])]
        _end(start(*words, moment=moment, signal=signal.SIGKILL), start, -signal.SIGKILL)
        reached.append(load_checkpoint(out / "k3", {})[1] if (out / "k3" / CHECKPOINT).exists() else 0)
    _end(start(*_words(acts, out, *options), "--resume"), start)
    assert reached == sorted(reached) and len(set(reached)) >= N_KILLS // 3, reached  # each went on from the last
    assert not list(out.rglob(CHECKPOINT))
    for name in ("k3", "k5"):
        assert (out / name / WEIGHTS).read_bytes() == (tmp_path / "whole" / name / WEIGHTS).read_bytes()


# ------------------------------------------------------------------------------ two processes
def _pair(start, words: list[object], expected: int = 0) -> None:
    """Run two processes as torchrun would; the store, on a port that the system gives, is in this one."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    elastic = {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, **elastic}
    common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, **where}
    children = [start(*words, RANK=rank, LOCAL_RANK=rank, **common) for rank in range(2)]
    for child in children:
        _end(child, start, expected)


@pytest.mark.parametrize("arch", ["topk", "batch-topk", "jumprelu"])
def test_two_processes_train_what_one_does(start, acts, tmp_path, arch):
    """Sums run in another order: equal but for rounding, which twelve steps multiply little."""
    options = ["--arch", arch, "--k", 3, "--tokens", 64 * 12, "--dead-after-tokens", 64, "--save-every", 5]
    _pair(start, _words(acts, tmp_path / "two", *options))
    _end(start(*_words(acts, tmp_path / "one", *options)), start)
    _end(start(*_words(acts, tmp_path / "other", *options, "--seed", 1)), start)
    one, two, other = (load_file(tmp_path / name / WEIGHTS) for name in ("one", "two", "other"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert (other["W_dec"] - one["W_dec"]).abs().max() > 0.1
    assert (tmp_path / "two" / "metrics.jsonl").read_text().count('"step": 12') == 1, "one of them writes"


def test_processes_that_divide_the_saes_train_the_same_bits(start, acts, tmp_path):
    options = ["--k", 3, "--k", 5, "--k", 7, "--tokens", 640]
    _pair(start, _words(acts, tmp_path / "two", *options))
    _end(start(*_words(acts, tmp_path / "one", *options)), start)
    for name in ("k3", "k5", "k7"):
        assert (tmp_path / "two" / name / WEIGHTS).read_bytes() == (tmp_path / "one" / name / WEIGHTS).read_bytes()
    _pair(start, _words(acts, tmp_path / "two", *options), expected=2)
    assert "exists already" in start.log.read_text()


def test_another_number_of_processes_is_refused_at_resume(start, acts, tmp_path):
    options = ["--k", 3, "--tokens", 64 * 1000, "--save-every", 3]
    child = start(*_words(acts, tmp_path / "a", *options))
    while not (tmp_path / "a" / CHECKPOINT).exists():
        assert child.is_alive(), start.log.read_text()[-3000:]
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    _pair(start, [*_words(acts, tmp_path / "a", *options), "--resume"], expected=2)
    assert "number of processes has changed" in start.log.read_text()


def test_torchrun_starts_two(acts, tmp_path):
    """The launcher itself, through the command line."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = [str(word) for word in _words(acts, tmp_path / "two", "--k", 3, "--tokens", 640, "--json")]
    done = subprocess.run(
        ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "wb", *words],
        env=environment, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"fvu"') == 1 and (tmp_path / "two" / WEIGHTS).exists()
