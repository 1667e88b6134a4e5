"""A sign of life, by a clock of the test's own."""

from __future__ import annotations

import threading

import pytest

from sae_train.run.heartbeat import LONGEST_S, SILENCE_S, Pulse, beating, doing
from sae_train.run.progress import Lines


class Clock:
    """Shows the seconds that it is set to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_long_silence_is_broken_and_again_every_few_seconds(clock, said):
    pulse = Pulse(clock=clock, say=said.append)
    advance = Lines("asking", 100, unit="questions", write=said.append, clock=clock)
    with pulse.doing(advance.text):
        for second in range(19):
            clock.seconds = float(second)
            if second == 8:
                advance(30)
            pulse.beat()
    assert said == ["asking (5 s so far)", "asking: 30/100, 2 questions/s, 35 s left (15 s so far)"]
    assert 15 - 5 <= LONGEST_S


def test_what_is_around_is_said_again_when_the_inner_is_over(clock, said):
    pulse = Pulse(clock=clock, say=said.append)
    with pulse.doing("wb audit"):
        with pulse.doing("loading"):
            clock.seconds += SILENCE_S
            pulse.beat()
        clock.seconds += SILENCE_S
        pulse.beat()
    clock.seconds += SILENCE_S
    pulse.beat()
    assert said == ["loading (5 s so far)", "wb audit (10 s so far)"]


def test_a_line_that_was_written_counts(clock, said):
    pulse = Pulse(clock=clock, say=said.append)
    with pulse.doing("asking"):
        for second in range(20):
            clock.seconds = float(second)
            pulse.beat()
            if second % 4 == 0:
                pulse.said()
    assert said == []


def test_nothing_is_said_where_nothing_is_done_or_a_bar_moves(clock, said):
    pulse = Pulse(clock=clock, say=said.append)
    clock.seconds = 100.0
    pulse.beat()
    with pulse.doing("asking"), pulse.doing(""):
        clock.seconds += 100.0
        pulse.beat()
    assert said == []


def test_only_one_thread_beats_and_it_ends():
    def beats() -> int:
        return sum(thread.name == "heartbeat" for thread in threading.enumerate())

    with beating(), doing("something"), beating():
        assert beats() == 1
    assert beats() == 0


def test_of_several_processes_the_first_speaks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with beating():
        assert all(thread.name != "heartbeat" for thread in threading.enumerate())
