"""Arrays of one axis that are made piece by piece, in memory or in a file, and read by parts.

The file of such an array has no name: it goes away with the array, also where the process is killed.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import IO, Any, overload

import numpy as np

BLOCK_VALUES = 2**18  # read at a time where a whole array is gone through


class _NamelessFile:
    """A file that nobody else can open, closed with its last user."""

    def __init__(self, folder: Path) -> None:
        self.stream = tempfile.TemporaryFile(dir=folder)
        weakref.finalize(self, _closed, self.stream)


def _closed(stream: IO[bytes]) -> None:
    """Close a file without a name; on a full disk what it still has to write has been refused, and said, before."""
    with suppress(OSError):
        stream.close()


class FileArray:
    """An array of one axis in an open file; reading a part of it reads that part of the file, and keeps nothing.

    Attributes:
        dtype: Type of its values.
        shape: (n,).
    """

    def __init__(self, file: _NamelessFile, dtype: np.dtype, n: int) -> None:
        self._file, self._lock = file, Lock()
        self.dtype, self.shape = dtype, (n,)

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, index: int | np.integer) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> np.ndarray: ...
    def __getitem__(self, index: int | np.integer | slice) -> Any:
        """Return one value, or those of a slice, which the caller may change."""
        if not isinstance(index, slice):
            at = range(len(self))[index]
            return self[at : at + 1][0]
        picked = range(len(self))[index]
        found = np.empty(len(picked), dtype=self.dtype)
        if picked.step != 1:
            low = min(picked, default=0)
            return self[low : max(picked, default=-1) + 1][np.array(picked, dtype=np.int64) - low]
        with self._lock:
            self._file.stream.seek(picked.start * self.dtype.itemsize)
            n_read = self._file.stream.readinto(found.view(np.uint8))  # type: ignore[attr-defined]
        assert n_read == found.nbytes, (n_read, found.nbytes)
        return found

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """Return all of it."""
        return self[:].astype(dtype or self.dtype, copy=False)  # type: ignore[arg-type]


Column = np.ndarray | FileArray


class ArrayWriter:
    """Takes the values of an array piece by piece.

    Args:
        dtype: Type of the values.
        folder: Where the file lies; None keeps the array in memory.
    """

    def __init__(self, dtype: type, folder: Path | None) -> None:
        self.dtype, self.n = np.dtype(dtype), 0
        self._parts: list[np.ndarray] = []
        self._file = None if folder is None else _NamelessFile(folder)

    def add(self, values: np.ndarray) -> None:
        """Take the next values."""
        values = np.ascontiguousarray(values, dtype=self.dtype)
        self.n += len(values)
        if self._file is None:
            self._parts.append(values)
        else:
            self._file.stream.write(values.view(np.uint8).data)

    def array(self) -> Column:
        """Return what was taken."""
        if self._file is None:
            return np.concatenate([np.empty(0, self.dtype), *self._parts])
        self._file.stream.flush()
        return FileArray(self._file, self.dtype, self.n)


def blocks_of(n: int, size: int | None = None) -> Iterator[slice]:
    """Yield the parts in which an array of length n is gone through, by default of `BLOCK_VALUES`.

    Example:
        >>> list(blocks_of(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = size or BLOCK_VALUES
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
