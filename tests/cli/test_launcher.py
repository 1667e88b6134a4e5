"""The launcher itself, torchrun: it is told to stop, or a process that it started is killed under it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sae_train.run.checkpoints import CHECKPOINT
from sae_train.run.locks import lock_file
from sae_train.run.runs import run_folder

pytestmark = pytest.mark.slow
# `wb`, whose process 1, before its third step, tells the launcher to stop or is killed. Until the launcher has told
# them in turn, both processes wait: else a fast machine would be at the end before.
SEEN = {"PYTHONFAULTHANDLER": "1"}  # a process that aborts says where
AT_THE_THIRD_STEP = """
import os, signal, sys, time
from sae_train.run import stopping

asked, calls, how = stopping._any_told, [], sys.argv[1]

def any_told(processes):
    calls.append(1)
    if len(calls) == 3 and how != "never":
        if os.environ["RANK"] == "1":
            os.kill(os.getpid() if how == "SIGKILL" else os.getppid(), getattr(signal, how))
        while how == "SIGTERM" and not stopping._TOLD.is_told:
            time.sleep(0.01)
    return asked(processes)

stopping._any_told = any_told
from cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def launched(how: str, words: list[str]) -> subprocess.CompletedProcess:
    """Run `wb` in two processes that torchrun starts."""
    launcher = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2", "--no-python"]
    line = [*launcher, sys.executable, "-c", AT_THE_THIRD_STEP, how, *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, env=os.environ | SEEN)


@pytest.fixture(scope="module")
def undisturbed(failing, tmp_path_factory) -> bytes:
    """The weights of a run of two processes that nothing stopped."""
    out = tmp_path_factory.mktemp("two") / "out"
    done = launched("never", [*failing.words("unlearn", out), *failing.paired])
    assert done.returncode == 0, done.stderr[-3000:]
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_launcher_that_is_told_to_stop_or_loses_a_process_can_go_on(how, failing, undisturbed, tmp_path):
    out = tmp_path / "out"
    words = [*failing.words("unlearn", out), *failing.paired]
    done = launched(how, words)
    assert done.returncode == 1, done.stderr[-3000:]  # the launcher's own code, whatever its processes end with
    told = "told to stop (SIGTERM); what is done so far is saved"
    assert done.stderr.count(told) == (2 if how == "SIGTERM" else 0), done.stderr[-3000:]
    assert how == "SIGTERM" or "Signal 9 (SIGKILL)" in done.stderr
    assert (run_folder(out) / CHECKPOINT).exists() and not out.exists() and not lock_file(out).exists()
    done = launched("never", [*words, "--resume"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "model.safetensors").read_bytes() == undisturbed
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
