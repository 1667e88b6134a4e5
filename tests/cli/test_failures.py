"""The failure table: a full disk at every write, kills and signals at chosen moments, lost processes.

The moments are files: a command is stopped when it puts a certain file in its place, or at a certain step, never by
time. What is left then does not count as finished, and the same command (with --resume where it can be continued) comes
to the result of a run that nothing stopped. docs/reference/failures.md has one row for each.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sae_train.run.checkpoints import CHECKPOINT
from sae_train.run.locks import lock_file
from sae_train.run.runs import run_folder

pytestmark = pytest.mark.slow


def test_a_disk_that_is_full_at_any_write(failing_command, failing, wb, tmp_path, monkeypatch):
    """At the first write, at the second, up to the last: each ends in words, and nothing is half-written."""
    failing.expected(failing_command)  # now: below, the disk is full
    real, seen = os.replace, {"n": 0, "full_at": 0}

    def replace(source, target):
        if str(target).startswith(str(tmp_path)):
            seen["n"] += 1
            if seen["n"] == seen["full_at"]:
                raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    for number in range(1, 60):
        out = tmp_path / f"full-{number}" / "out"
        out.parent.mkdir()
        seen |= {"n": 0, "full_at": number}
        done = wb(*failing.words(failing_command, out))
        if seen["n"] < number:
            assert done.code == 0 and number > 1, done.err
            return
        assert done.code == 1 and "the disk is full" in done.err and "Traceback" not in done.err, (number, done.err)
        seen["full_at"] = 0
        failing.check_continued(failing_command, out)
    raise AssertionError("no end of writes")


# `wb`, to which a signal comes when it puts its result in place: the moment at which most is there and nothing counts.
AT_THE_LAST_FILE = """
import os, signal, sys
real, goal, number = os.replace, sys.argv[1], getattr(signal, sys.argv[2])

def replace(source, target):
    if str(target) == goal:
        os.kill(os.getpid(), number)
    real(source, target)

os.replace = replace
from cli.main import main
sys.exit(main(sys.argv[3:]))
"""


def stopped(words: list[str], out: Path, how: str, script: str = AT_THE_LAST_FILE) -> subprocess.CompletedProcess:
    """Run a command in a process of its own that a signal stops."""
    out.parent.mkdir(exist_ok=True)
    line = [sys.executable, "-c", script, str(out), how, *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_command_that_is_stopped_at_its_last_file(failing_command, how, failing, tmp_path):
    out = tmp_path / "stopped" / "out"
    done = stopped(failing.words(failing_command, out), out, how)
    assert done.returncode == {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143}[how], done.stderr
    assert "Traceback" not in done.stderr
    if how == "SIGTERM":
        assert "told to stop (SIGTERM)" in done.stderr
        keeps = failing_command in ("cache-activations", "label-entities")
        assert ("--resume" in done.stderr) == keeps, done.stderr
    lock_file(out).unlink(missing_ok=True)  # of a process that was killed; taken over by the next one in any case
    failing.check_continued(failing_command, out)


TOLD_AT_THE_THIRD_STEP = """
import os, signal, sys
from sae_train.run import stopping

asked, calls, number = stopping._any_told, [], getattr(signal, sys.argv[2])

def any_told(processes):
    calls.append(1)
    if len(calls) == 3 and os.environ.get("RANK", "0") == os.environ.get("WB_TEST_RANK", "0"):
        os.kill(os.getpid(), number)
    return asked(processes)

stopping._any_told = any_told
from cli.main import main
sys.exit(main(sys.argv[3:]))
"""


def test_a_world_that_is_stopped_while_it_is_built_is_built_again(wb, tmp_path):
    """Without a base nothing can be continued, and nothing is kept that could be taken for a world."""
    out = tmp_path / "stopped" / "out"
    words = ["world", "--documents", "2000", "--out", str(out)]
    for how, code in (("SIGTERM", 143), ("SIGKILL", -signal.SIGKILL)):
        done = stopped(words, out, how)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        left = {p.name for p in out.parent.iterdir()}
        assert left == (set() if how == "SIGTERM" else {"out.partial", "out.lock"})
    killed = (out.with_name("out.partial") / "model.safetensors").read_bytes()
    assert wb(*words).code == 0
    assert (out / "model.safetensors").read_bytes() == killed, "the same world"
    assert {p.name for p in out.parent.iterdir()} == {"out"}


def test_a_clock_that_was_set_forward_changes_nothing(failing_command, failing, moments, wb, tmp_path, monkeypatch):
    """What an interrupted run left is dated ten years ahead, and the clock stands another ten years beyond that."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    out, ten_years, real = tmp_path / "stopped" / "out", 10 * 365 * 86_400, time.time
    out.parent.mkdir()
    with moments(6, interrupt):
        done = wb(*failing.words(failing_command, out))
    assert done.code == 130, done.err
    for path in out.parent.rglob("*"):
        os.utime(path, (real() + ten_years,) * 2)
    monkeypatch.setattr(time, "time", lambda: real() + 2 * ten_years)
    failing.check_continued(failing_command, out)


def test_planting_that_is_told_to_stop_saves_first(failing, tmp_path):
    out = tmp_path / "stopped" / "out"
    done = stopped(failing.words("world", out), out, "SIGTERM", TOLD_AT_THE_THIRD_STEP)
    assert done.returncode == 143 and "is saved" in done.stderr and "--resume" in done.stderr, done.stderr
    assert list(run_folder(out).rglob(CHECKPOINT))
    failing.check_continued("world", out)


def _two(words: list[str], how: str, **environment: str) -> tuple[list[int], str]:
    """Run a command in two processes as torchrun would start them; return exit codes and what they said."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", **environment}
    line = [sys.executable, "-c", TOLD_AT_THE_THIRD_STEP, "-", how, *words]
    started = [
        subprocess.Popen(
            line, env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True
        )
        for r in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    return [process.returncode for process in started], "\n".join(said)


def test_of_two_processes_one_is_told_and_both_save(failing, tmp_path):
    out = tmp_path / "out"
    codes, said = _two([*failing.words("unlearn", out), *failing.paired], "SIGTERM", WB_TEST_RANK="1")
    assert codes == [143, 143] and said.count("is saved") == 2 and "Traceback" not in said, said
    assert (run_folder(out) / CHECKPOINT).exists() and not out.exists()


def test_of_two_processes_one_is_killed_and_the_other_says_so(failing, tmp_path):
    out = tmp_path / "out"
    codes, said = _two([*failing.words("unlearn", out), *failing.paired], "SIGKILL", WB_TEST_RANK="1")
    assert codes == [1, -signal.SIGKILL] and "another process of this run has ended" in said, said
    assert "Traceback" not in said and not out.exists()
