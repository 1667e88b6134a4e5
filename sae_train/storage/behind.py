"""Work behind: one thread does one thing after another, in order, while whoever hands them over prepares the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Behind(Generic[T]):
    """Does `work(item)` in a thread of its own, item after item, of which few wait at a time.

    Used as a context. Where it is left by an error, what has not begun is dropped, and what has is waited for: nothing
    runs afterwards.

    Args:
        work: What is done with each item.
        most: Items that may wait beside the one in work; `put` waits where there are more.
    """

    def __init__(self, work: Callable[[T], object], *, most: int = 1) -> None:
        self.work, self.most = work, most
        self._waiting: deque[tuple[T, Future[object]]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wb-behind")
        self._failed = False

    def put(self, item: T) -> list[T]:
        """Hand over an item; return those that are done by now, in order.

        Raises:
            Exception: What `work` raised, at the first call after it; no further item is begun.
        """
        done = self._done(self.most)
        self._waiting.append((item, self._thread.submit(self._unless_failed, item)))
        return done + self._done(self.most + 1)

    def drain(self) -> list[T]:
        """Wait for all items; return those that were not returned yet.

        Raises:
            Exception: As `put`.
        """
        return self._done(0)

    def __enter__(self) -> Behind[T]:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Wait for what has begun; without an error for everything."""
        self._failed = self._failed or kind is not None
        self._thread.shutdown(wait=True)
        if kind is None:
            self.drain()

    def _unless_failed(self, item: T) -> None:
        """Do the work, unless that of an earlier item failed: what comes later must not be done without it."""
        if self._failed:
            return
        try:
            self.work(item)
        except BaseException:
            self._failed = True
            raise

    def _done(self, most: int) -> list[T]:
        """Return items that are done, waiting until no more than `most` are not."""
        found = []
        while self._waiting and (len(self._waiting) > most or self._waiting[0][1].done()):
            item, future = self._waiting.popleft()
            future.result()
            found.append(item)
        return found
