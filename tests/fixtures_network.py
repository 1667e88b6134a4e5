"""No test reaches another machine: whatever tries to ends the test, and nothing catches it. Registered by conftest.py.

A thread in the background has no test of its own to end (a library's telemetry): it is told that there is no network.

Processes that tests start are not watched; they are told to be offline by the environment (conftest.py).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest


def is_local(host: object) -> bool:
    """Tell whether a host is this machine: by its name, or by an address that leads to no other."""
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        found = ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return False
    return found.is_loopback or found.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Let sockets reach this machine only."""
    connect, connect_ex, find = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(host: object) -> None:
        if is_local(host):
            return
        if threading.current_thread() is not threading.main_thread():
            raise OSError(errno.ENETUNREACH, f"a test reaches for another machine: {host}")
        pytest.fail(f"a test reaches for another machine: {host}")  # no Exception: a library cannot swallow it

    def guarded(real: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse(address[0])
            return real(self, address)

        return call

    def named(host: Any, *args: Any, **more: Any) -> Any:
        refuse(host)
        return find(host, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", named)
        yield
