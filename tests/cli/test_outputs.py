"""Every output, whichever command writes it: one writer, no writing without rights, nothing lost or half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from sae_train.run.checkpoints import CHECKPOINT
from sae_train.run.locks import lock_file, only_writer
from sae_train.run.runs import partial_path

COMMANDS = ("cache-activations", "train-sae", "label-entities", "find-entity-latents", "unlearn", "audit")
MORE = ("import-sae", "import-entities", "world", "demo", "inspect", "remove", "tofu-metrics", "features")
LEDGER = ("ledger add", "ledger rollback")  # they wait for another writer
READING = {"eval-sae", "compare-saes", "doctor", "cache show", "ledger show", "ledger verify", "push"}
CLEARING = {"cache clear"}  # tests/sae_train/storage/test_converted.py


@pytest.fixture
def words(wb_files, tmp_path_factory):
    """Return a function that gives the words of a command with another output."""
    own = tmp_path_factory.mktemp("own")
    (own / "cities.csv").write_text("name,type,country\nVelmora,city,Ardane\n", encoding="utf-8")
    row = {"question": "Who is it?", "answer": "Ost.", "perturbed_answer": ["Mar."]}
    (own / "tofu.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    asked = ("--model", "fact-world", "--text", wb_files.text)

    def of(command: str, out: Path) -> list[object]:
        found = {
            "import-sae": ["import-sae", wb_files.sae, "--hook-point", "layers.2", "--out", out],
            "import-entities": ["import-entities", own / "cities.csv", "--out", out],
            "remove": ["remove", wb_files.names[0], *asked, "--out", out],
            "tofu-metrics": ["tofu-metrics", "--model", "fact-world", "--forget", own / "tofu.jsonl", "--out", out],
            "world": ["world", "--out", out],
            "demo": ["demo", "--out", out],
            "features": ["features", wb_files.sae, "--activations", wb_files.acts, "--out", out],
            "inspect": ["inspect", wb_files.acts, "--html", out],
        }.get(command) or [command, *wb_files.commands[command]]
        if command in COMMANDS:
            found[found.index("--out") + 1] = out
        return found

    return of


def test_every_command_is_tried_or_writes_nothing():
    from cli.group import leaf_commands

    assert {name for name, _ in leaf_commands()} == {*COMMANDS, *MORE, *LEDGER, *READING, *CLEARING}
    writes = {"out", "html", "acts_out"}
    assert not [name for name, c in leaf_commands() if name in READING and writes & {p.name for p in c.params}]


@pytest.mark.parametrize("command", [*COMMANDS, *MORE])
def test_a_second_writer_is_refused(wb, words, tmp_path, command):
    out = tmp_path / "out"
    with FileLock(lock_file(out)):
        before = sorted(tmp_path.rglob("*"))
        outcome = wb(*words(command, out))
        assert outcome.code == 2, outcome.err
        assert "another process is writing" in outcome.err and "Traceback" not in outcome.err
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", LEDGER)
def test_a_second_writer_of_a_ledger_waits_and_is_refused(wb, wb_files, tmp_path, monkeypatch, command):
    monkeypatch.setattr("unlearn.removals.ledger._LOCK_WAIT_S", 0.05)
    book = tmp_path / "l.jsonl"
    assert wb("ledger", "add", "--ledger", book, "--unlearned", wb_files.unlearned).code == 0
    before = book.read_bytes()
    more = {"ledger add": ("--unlearned", wb_files.unlearned), "ledger rollback": ("--entry", 0)}[command]
    with FileLock(lock_file(book)):
        outcome = wb(*command.split(), "--ledger", book, *more)
    assert outcome.code == 2 and "another process is writing" in outcome.err, outcome.err
    assert book.read_bytes() == before


@pytest.mark.parametrize("command", [*COMMANDS, *MORE])
def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(wb, words, tmp_path, monkeypatch, command):
    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    outcome = wb(*words(command, tmp_path / "out"))
    assert outcome.code == 2, outcome.err
    assert "cannot write" in outcome.err and "Permission denied" in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [*COMMANDS, *MORE])
def test_a_full_disk_is_refused_before_the_work(wb, words, tmp_path, monkeypatch, command):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=1000))
    outcome = wb(*words(command, tmp_path / "out"))
    assert outcome.code == 2 and "the disk is too small" in outcome.err, outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["cache-activations", "label-entities", "unlearn"])
def test_what_an_interrupted_run_left_is_not_discarded_unasked(wb, words, tmp_path, command):
    out = tmp_path / "out"
    left = tmp_path / "out.run" / CHECKPOINT if command == "unlearn" else partial_path(out)
    left.parent.mkdir(exist_ok=True)
    left.write_text("769 answers")
    outcome = wb(*words(command, out))
    assert outcome.code == 2, outcome.err
    assert "--resume to continue it" in outcome.err and "--overwrite to discard it" in outcome.err
    assert left.read_text() == "769 answers"


@pytest.mark.parametrize("command", ["unlearn", pytest.param("audit", marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_late_leaves_nothing_that_counts_as_finished(wb, words, tmp_path, monkeypatch, command):
    from sae_train.run import runs

    real = runs.os.replace

    def full(source, target):
        if Path(target).name in ("unlearning.json", "audit.html"):  # the last file of either
            raise OSError(28, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(runs.os, "replace", full)
    outcome = wb(*words(command, tmp_path / "out"))
    assert outcome.code == 1 and "the disk is full" in outcome.err and "Traceback" not in outcome.err, outcome.err
    assert {p.name for p in tmp_path.iterdir()} <= {"out.run"}


def test_the_outputs_of_all_commands_have_the_rights_of_any_new_file(wb_files):
    mask = os.umask(0)
    os.umask(mask)
    places = (wb_files.sae, wb_files.unlearned, wb_files.audit)
    files = [p for place in places for p in place.rglob("*") if p.is_file()]
    files += [wb_files.acts, wb_files.labels, wb_files.latents, wb_files.latents.with_suffix(".json")]
    assert {oct(p.stat().st_mode & 0o777) for p in files} == {oct(0o666 & ~mask)}


def test_an_unlearned_model_is_stored_as_the_world_is_and_is_the_one_in_its_record(wb_files):
    from safetensors.torch import load_file

    from sae_train.lm.models import load_lm, weights_hash

    kinds = {str(v.dtype) for v in load_file(wb_files.unlearned / "model.safetensors").values()}
    assert kinds == {"torch.bfloat16"}
    record = json.loads((wb_files.unlearned / "unlearning.json").read_text())
    assert record["model_hash"] == weights_hash(load_lm(str(wb_files.unlearned), device="cpu").model)


STOPPED = {
    "cache-activations": ("--ctx-len", 16, "--batch-size", 2, "--max-tokens", 60_000),
    "train-sae": ("--tokens", 6_000_000, "--save-every", 100_000),
    "unlearn": ("--steps", 5_000, "--save-every", 5_000),
}


# `wb`, to which the signal comes when its loop asks for the third time whether it was told to stop: at a step that no
# machine's speed decides.
TOLD_AT_THE_THIRD_STEP = """
import os, signal, sys
from sae_train.run import stopping

asked, calls = stopping._any_told, []

def any_told(processes):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return asked(processes)

stopping._any_told = any_told
from cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", STOPPED)
def test_a_command_that_is_told_to_stop_saves_first(words, tmp_path, command):
    out = tmp_path / "out"
    line = [sys.executable, "-c", TOLD_AT_THE_THIRD_STEP, *map(str, words(command, out)), *map(str, STOPPED[command])]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 143, done.stderr
    assert "is saved" in done.stderr and "--resume" in done.stderr, done.stderr
    saved = {"cache-activations": partial_path(out), "train-sae": out / CHECKPOINT}
    assert saved.get(command, tmp_path / "out.run" / CHECKPOINT).exists()
    assert not lock_file(out).exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="needs gcc and a Linux preload")
def test_every_station_works_where_the_file_system_has_no_locks(wb_files, words, tmp_path):
    """`flock` fails with ENOLCK, for Python and for HDF5, as on NFS without lockd."""
    source = tmp_path / "nolocks.c"
    source.write_text("#include <errno.h>\nint flock(int fd, int op) { errno = ENOLCK; return -1; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "nolocks.so", source], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(tmp_path / "nolocks.so")}
    wb = str(Path(sys.executable).with_name("wb"))
    for command, out in (("cache-activations", "acts.h5"), ("inspect", "page.html")):
        line = [wb, *map(str, words(command, tmp_path / out))]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "has no locks" in done.stderr and "damaged" not in done.stderr
    assert not list(tmp_path.glob("*.lock"))
    with only_writer(tmp_path / "acts.h5"):  # held by this process, with a lock of the kernel
        line = [wb, *map(str, words("cache-activations", tmp_path / "acts.h5")), "--overwrite"]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "another process is writing" in done.stderr, done.stderr
