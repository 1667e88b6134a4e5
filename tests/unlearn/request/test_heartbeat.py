"""A sign of life, by a clock of the test's own."""

from __future__ import annotations

from sae_train.run.progress import silent
from unlearn.request.heartbeat import SILENCE_S, Pulse


class Clock:
    """Shows the seconds that it is set to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_long_silence_is_broken_once_every_few_seconds():
    clock, said = Clock(), []
    pulse = Pulse(clock=clock, say=said.append)
    with pulse.wrapped(silent)("asking", 100, unit="questions") as advance:
        for second in range(13):
            clock.seconds = float(second)
            if second == 6:
                advance(30)
            pulse.beat()
    assert said == ["asking: 5 s", "asking: 10 s, 30 steps"]
    clock.seconds += SILENCE_S
    pulse.beat()
    assert said[2:] == ["after asking: 5 s"]


def test_nothing_is_said_where_nothing_is_done():
    clock, said = Clock(), []
    pulse = Pulse(clock=clock, say=said.append)
    clock.seconds = 100.0
    pulse.beat()
    pulse.doing("asking")
    clock.seconds += SILENCE_S - 0.1
    pulse.beat()
    assert said == []
