"""Signals at random moments of a command: drawn by a seed from what it does, not from time (fixtures_processes.py).

The stops come one after the other on one output, each into what the last one left. A run that comes to its end before
its moment has done what it should, and the next one begins anew. docs/reference/failures.md has the numbers of stops.
"""

from __future__ import annotations

import random
import shutil
import signal

import pytest

from sae_train.run.locks import lock_file

pytestmark = pytest.mark.slow
TIMEOUT_S = 300


def _ended(child) -> int:
    child.join(TIMEOUT_S)
    return child.exitcode


@pytest.fixture
def n_moments(start, failing, failing_command, tmp_path) -> int:
    """How many moments a run has that nothing stops; it comes to the result of any other."""
    out, counted = tmp_path / "counted" / "out", tmp_path / "moments.txt"
    out.parent.mkdir()
    assert _ended(start(*failing.words(failing_command, out), count_to=counted)) == 0, start.log.read_text()[-3000:]
    failing.check_whole(failing_command, out)
    return int(counted.read_text())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_stops_at_random_moments_change_nothing(
    how, failing_command, n_moments, start, failing, failure_table, tmp_path
):
    draws = random.Random(f"{failing_command} {how.name}")
    assert n_moments >= 3, "there is something to be stopped"
    out, beside = tmp_path / "stopped" / "out", tmp_path / "other"
    beside.write_text("another output")
    out.parent.mkdir()
    code = -how if how == signal.SIGKILL else 128 + how
    stops = 0
    while stops < failure_table.stops[failing_command]:
        moment = draws.randint(1, n_moments)
        ended = _ended(start(*failing.again(failing_command, out), moment=moment, signal=how))
        assert ended in (0, code), (moment, start.log.read_text()[-3000:])
        stops += ended != 0
        if ended == 0:
            failing.check_whole(failing_command, out)
            shutil.rmtree(out.parent)
            out.parent.mkdir()
        elif how == signal.SIGTERM:
            assert not lock_file(out).exists(), moment
    assert _ended(start(*failing.again(failing_command, out))) == 0, start.log.read_text()[-3000:]
    failing.check_whole(failing_command, out)
    assert "Traceback" not in start.log.read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"counted", "moments.txt", "other", "stopped"}
    assert beside.read_text() == "another output"


REMOVAL = {
    "n-others": 12, "n-unknown": 12, "gate-blocks": 4, "gate-entities": 6, "gate-questions": 1, "n-hook-points": 1,
    "n-rows": 2000, "ctx-len": 64, "sae-k": 8, "sae-expansion": 2, "sae-tokens": 8000, "sae-batch-size": 512,
    "max-general-rate": 1,
}  # fmt: skip


def test_a_removal_that_is_stopped_goes_on(start, wb_files, tmp_path):
    """Told to stop, then killed, at moments drawn from the whole way; each call goes on from what the last one kept."""
    audited = ("relearn", "same-form", "prompts", "prune", "finetune", "sae-fit", "steer-back")
    sizes = [part for name, value in REMOVAL.items() for part in (f"--{name}", value)]
    words = ["remove", wb_files.names[0], "--model", "fact-world", "--text", wb_files.text, *sizes, "--out"]
    words[2:2] = ["--entities", wb_files.entities, "--templates", wb_files.templates]
    words[2:2] = [part for name in audited for part in ("--skip", name)]
    counted = tmp_path / "moments.txt"
    assert _ended(start(*words, tmp_path / "whole", count_to=counted)) == 0, start.log.read_text()[-3000:]
    draws = random.Random("remove")
    for how, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        moment = draws.randint(1, int(counted.read_text()) // 2)
        ended = _ended(start(*words, tmp_path / "stopped", moment=moment, signal=how))
        assert ended == code, start.log.read_text()[-3000:]
        assert not (tmp_path / "stopped" / "removal.html").exists()
    assert _ended(start(*words, tmp_path / "stopped")) == 0, start.log.read_text()[-3000:]
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob("*.lock"))
