"""The guard that keeps tests on this machine."""

from __future__ import annotations

import socket
import threading

import pytest

ELSEWHERE = "192.0.2.1"  # reserved for documentation: no machine has it


def reached() -> BaseException | None:
    """Try to reach another machine by address and by name; return what came of it."""
    for host in (ELSEWHERE, "nowhere.invalid"):
        with socket.socket() as sock:
            try:
                sock.connect((host, 9)) if host == ELSEWHERE else socket.getaddrinfo(host, 9)
            except (OSError, pytest.fail.Exception) as error:
                return error
    return None


def test_a_test_that_reaches_for_another_machine_is_ended():
    assert isinstance(reached(), pytest.fail.Exception)


def test_a_thread_in_the_background_is_told_that_there_is_no_network():
    found: list[BaseException | None] = []
    thread = threading.Thread(target=lambda: found.append(reached()))
    thread.start()
    thread.join()
    assert isinstance(found[0], OSError) and "another machine" in str(found[0])


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]) as sock:
        assert sock.getpeername() == server.getsockname()[:2]
