"""The failure table: a full disk at every write, kills and signals at chosen moments, lost processes.

The moments are files: a command is stopped when it puts a certain file in its place, or at a certain step, never by
time. What is left then does not count as finished, and the same command (with --resume where it can be continued) comes
to the result of a run that nothing stopped. docs/reference/failures.md has one row for each.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sae_train.run.checkpoints import CHECKPOINT
from sae_train.run.locks import lock_file
from sae_train.run.runs import partial_path, run_folder

pytestmark = pytest.mark.slow
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "failures.md"
# Command -> the files that are its result, and whether it can be continued.
RESULTS = {
    "label-entities": (("out",), True),
    "find-entity-latents": (("out", "out.json", "out.html", "out_figures"), False),
    "unlearn": (("out",), True),
    "audit": (("out",), False),
    "world": (("out",), True),
}


@pytest.fixture
def words(wb_files, tiny_gpt2_dir, general_documents, small_planting, tmp_path_factory):
    """Return a function that gives the words of a command with another output."""
    text = tmp_path_factory.mktemp("text") / "general.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in general_documents), encoding="utf-8")

    def of(command: str, out: Path) -> list[str]:
        if command != "world":
            found = [command, *wb_files.commands[command]]
            found[found.index("--out") + 1] = out
            return [str(word) for word in found]
        names = {"n_entities": "entities", "n_facts": "facts"}
        settings = [(f"--{names.get(k, k)}".replace("_", "-"), v) for k, v in small_planting.items()]
        found = [command, "--base", tiny_gpt2_dir, "--text", text, "--device", "cpu", "--out", out]
        return [str(word) for word in [*found, *(part for pair in settings for part in pair)]]

    return of


def result_of(command: str, out: Path) -> object:
    """Return what must be the same however often the command was stopped."""
    if command == "label-entities":
        return out.read_bytes()
    if command == "find-entity-latents":
        return {k: v for k, v in json.loads(out.with_suffix(".json").read_text()).items() if k in ("known", "unknown")}
    if command == "audit":
        found = json.loads((out / "audit.json").read_text())
        return [found["verdict"], found["forget"], found["attacks"]]
    folders = [out] if command == "unlearn" else [out / "model", out / "twin"]
    return [(folder / "model.safetensors").read_bytes() for folder in folders]


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, object]:
    """Results of runs that nothing stopped, by command."""
    return {}


def expected(command: str, words, wb, undisturbed: dict[str, object], folder: Path) -> object:
    """Return the result of a run that nothing stopped; it runs once."""
    if command not in undisturbed:
        out = folder / "undisturbed" / "out"
        out.parent.mkdir()
        done = wb(*words(command, out))
        assert done.code == 0, done.err
        undisturbed[command] = result_of(command, out)
    return undisturbed[command]


def check_continued(command: str, words, wb, out: Path, wanted: object) -> None:
    """Assert that nothing counts as finished, and that the command comes to its end now."""
    resumes = RESULTS[command][1]
    assert not lock_file(out).exists()
    left = {p.name for p in out.parent.iterdir()}
    assert "out" not in left, "it counts as finished"
    has_left = bool({partial_path(out).name, run_folder(out).name} & left)
    done = wb(*words(command, out), *(["--resume"] if resumes and has_left else []))
    assert done.code == 0, done.err
    assert result_of(command, out) == wanted
    assert {p.name for p in out.parent.iterdir()} == {*RESULTS[command][0]}


@pytest.mark.parametrize("command", RESULTS)
def test_a_disk_that_is_full_at_any_write(command, wb, words, undisturbed, tmp_path, monkeypatch):
    """At the first write, at the second, up to the last: each ends in words, and nothing is half-written."""
    wanted = expected(command, words, wb, undisturbed, tmp_path)
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
        done = wb(*words(command, out))
        if seen["n"] < number:
            assert done.code == 0 and number > 1, done.err
            return
        assert done.code == 1 and "the disk is full" in done.err and "Traceback" not in done.err, (number, done.err)
        seen["full_at"] = 0
        check_continued(command, words, wb, out, wanted)
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


def stopped(command: str, words, out: Path, how: str, script: str = AT_THE_LAST_FILE) -> subprocess.CompletedProcess:
    """Run a command in a process of its own that a signal stops."""
    out.parent.mkdir(exist_ok=True)
    line = [sys.executable, "-c", script, str(out), how, *words(command, out)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", RESULTS)
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_command_that_is_stopped_at_its_last_file(command, how, wb, words, undisturbed, tmp_path):
    wanted = expected(command, words, wb, undisturbed, tmp_path)
    out = tmp_path / "stopped" / "out"
    done = stopped(command, words, out, how)
    assert done.returncode == {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143}[how], done.stderr
    assert "Traceback" not in done.stderr
    if how == "SIGTERM":
        assert "told to stop (SIGTERM)" in done.stderr
        assert ("--resume" in done.stderr) == (command == "label-entities"), done.stderr
    lock_file(out).unlink(missing_ok=True)  # of a process that was killed; taken over by the next one in any case
    check_continued(command, words, wb, out, wanted)


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


def test_planting_that_is_told_to_stop_saves_first(wb, words, undisturbed, tmp_path):
    wanted = expected("world", words, wb, undisturbed, tmp_path)
    out = tmp_path / "stopped" / "out"
    done = stopped("world", words, out, "SIGTERM", TOLD_AT_THE_THIRD_STEP)
    assert done.returncode == 143 and "is saved" in done.stderr and "--resume" in done.stderr, done.stderr
    assert list(run_folder(out).rglob(CHECKPOINT))
    check_continued("world", words, wb, out, wanted)


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


PAIRED = ["--method", "idk", "--steps", "6", "--save-every", "2", "--batch-size", "4", "--warmup-steps", "1"]
PAIRED += ["--device", "cpu"]


def test_of_two_processes_one_is_told_and_both_save(words, tmp_path):
    out = tmp_path / "out"
    codes, said = _two([*words("unlearn", out), *PAIRED], "SIGTERM", WB_TEST_RANK="1")
    assert codes == [143, 143] and said.count("is saved") == 2 and "Traceback" not in said, said
    assert (run_folder(out) / CHECKPOINT).exists() and not out.exists()


def test_of_two_processes_one_is_killed_and_the_other_says_so(words, tmp_path):
    out = tmp_path / "out"
    codes, said = _two([*words("unlearn", out), *PAIRED], "SIGKILL", WB_TEST_RANK="1")
    assert codes == [1, -signal.SIGKILL] and "another process of this run has ended" in said, said
    assert "Traceback" not in said and not out.exists()


def test_the_page_has_a_row_for_every_command_and_failure():
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `wb ([\w-]+)`.*$", page, re.MULTILINE)
    assert set(rows) >= {*RESULTS, "cache-activations", "train-sae"}
    named = set(re.findall(r"`(test_\w+)`", page))
    here = Path(__file__).resolve().parents[1]
    known = {name for path in here.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert named and named <= known, named - known
