"""The guard of the tests: this machine can be reached, no other one, and nothing swallows the refusal."""

from __future__ import annotations

import socket

import pytest

ELSEWHERE = "192.0.2.1"  # RFC 5737: an address of nobody


def test_another_machine_is_out_of_reach():
    with socket.socket() as one, pytest.raises(pytest.fail.Exception, match=ELSEWHERE):
        one.connect((ELSEWHERE, 80))
    with pytest.raises(pytest.fail.Exception, match="example"):
        socket.create_connection(("example.invalid", 443))
    assert not issubclass(pytest.fail.Exception, Exception), "a library would swallow it"


def test_this_machine_is_not():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as one:
            assert one.getpeername()[0] == "127.0.0.1"
