"""A run that is told to stop saves first, where it can be continued, and ends at once everywhere else."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from cli import main
from sae_train.run.stopping import EXIT_TERMINATED, Terminated, saving, terminations_heard


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_loop_that_saves_ends_between_two_steps():
    done: list[str] = []
    save = partial(done.append, "saved")
    with terminations_heard(), pytest.raises(Terminated) as stopped, saving(save) as stop_if_told:
        for step in range(9):
            if step == 2:
                tell()
            done.append(f"step {step}")
            stop_if_told()
    assert done == ["step 0", "step 1", "step 2", "saved"] and stopped.value.is_saved


def test_what_cannot_be_continued_ends_at_once_and_a_second_signal_does_so_anywhere():
    with terminations_heard(), pytest.raises(Terminated) as stopped:
        tell()
        raise AssertionError("it went on")
    assert not stopped.value.is_saved
    with terminations_heard(), pytest.raises(Terminated), saving(lambda: None):
        tell()
        tell()
        raise AssertionError("it went on")


def test_a_signal_during_the_last_step_is_not_lost():
    saved: list[int] = []
    with terminations_heard(), pytest.raises(Terminated), saving(lambda: saved.append(1)):
        tell()
    assert saved == [1]


def test_outside_a_command_the_signal_means_what_it_meant_before():
    before = signal.getsignal(signal.SIGTERM)
    with terminations_heard():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("is_saved", "said"), [(True, "--resume"), (False, "told to stop")])
def test_the_command_line_ends_with_the_code_of_the_signal(capsys, is_saved, said):
    def action() -> int:
        raise Terminated(is_saved=is_saved)

    assert main.exit_code_of(action) == EXIT_TERMINATED == 143
    assert said in capsys.readouterr().err
