"""Work behind: in order, few at a time, beside whoever hands it over; an error surfaces and stops everything later."""

from __future__ import annotations

import threading

import pytest

from sae_train.storage.behind import Behind

PATIENCE = 60.0  # seconds after which something that has to happen has not; nothing waits that long where it does


def test_it_works_while_the_next_is_prepared_and_few_wait():
    may_end, done = [threading.Event() for _ in range(4)], []

    def work(item: int) -> None:
        assert may_end[item].wait(PATIENCE)
        done.append(item)

    with Behind(work, most=1) as behind:
        assert behind.put(0) == [] and behind.put(1) == []  # both came back: nothing is done yet
        assert done == []
        threading.Timer(0.01, may_end[0].set).start()
        assert behind.put(2) == [0] and done == [0]  # no room before the first one was done
        for event in may_end:
            event.set()
        assert behind.put(3)[:1] in ([1], [])
        behind.drain()
    assert done == [0, 1, 2, 3]


def test_an_error_surfaces_and_nothing_later_is_done():
    began, may_end = [], threading.Event()

    def work(item: int) -> None:
        began.append(item)
        assert may_end.wait(PATIENCE)
        if item == 0:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind(work, most=2) as behind:
        for item in range(3):
            behind.put(item)
        may_end.set()
        behind.drain()
    assert began == [0]


def test_who_leaves_by_an_error_of_his_own_leaves_nothing_running():
    began, done, may_end = threading.Event(), [], threading.Event()

    def work(item: int) -> None:
        began.set()
        assert may_end.wait(PATIENCE)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), Behind(work, most=2) as behind:
        for item in range(3):
            behind.put(item)
        assert began.wait(PATIENCE)
        threading.Timer(0.01, may_end.set).start()
        raise KeyboardInterrupt
    assert done == [0]  # what had begun was waited for
