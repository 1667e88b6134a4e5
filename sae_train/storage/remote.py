"""Files at an fsspec address (`s3://bucket/acts.h5`, `memory://acts.h5`): opened to be read, and read by parts.

Nothing here is reached unless somebody named such an address. What reads `s3://` is a package of its own (s3fs, in the
extra `remote`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from sae_train.errors import MissingFileError

BLOCK_BYTES, N_BLOCKS = 2**20, 32  # of what HDF5 reads beside the chunks, and how many of them are kept


def is_address(text: object) -> bool:
    """Tell whether a text names a file by an address.

    Example:
        >>> is_address("s3://bucket/acts.h5"), is_address("runs/acts.h5")
        (True, False)
    """
    return isinstance(text, str) and "://" in text


class RemoteFile:
    """A file at an address, with as much of `pathlib.Path` as reading a store takes.

    Args:
        address: What fsspec understands: `s3://bucket/acts.h5`.

    Raises:
        MissingFileError: No such file system is known, or what reads it is not installed.
    """

    def __init__(self, address: str) -> None:
        import fsspec

        self.address = address
        try:
            self._files, self._inner = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise MissingFileError(
                f"cannot read '{address}'",
                got=str(error)[:160],
                expected="an address that fsspec knows: s3://bucket/acts.h5",
                try_="pip install 'sae-workbench[remote]', for s3://",
            ) from error

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """Return the last part of the address."""
        return self.address.rsplit("/", 1)[-1]

    def with_name(self, name: str) -> RemoteFile:
        """Return the file beside this one."""
        return RemoteFile(f"{self.address.rsplit('/', 1)[0]}/{name}")

    def is_file(self) -> bool:
        """Tell whether it is there.

        Raises:
            MissingFileError: Nobody can say: no connection, no permission.
        """
        with self._reached():
            return bool(self._files.isfile(self._inner))

    def stat(self) -> Any:
        """Return what has its size, `st_size` bytes."""
        with self._reached():
            return SimpleNamespace(st_size=int(self._files.size(self._inner)))

    def require(self) -> None:
        """Refuse a file that is not there, or cannot be read.

        Raises:
            MissingFileError: As it says.
        """
        with self._reached():
            if not self._files.isfile(self._inner):
                raise FileNotFoundError(errno.ENOENT, "no such file", self.address)

    def stream(self) -> Any:
        """Return it open, to be read from any place; the blocks read last are kept."""
        with self._reached():
            kept = {"cache_type": "blockcache", "cache_options": {"maxblocks": N_BLOCKS}}
            return self._files.open(self._inner, "rb", block_size=BLOCK_BYTES, **kept)

    def parts(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return parts, given as (first byte, number of bytes), all asked for at once where that can be done."""
        starts, ends = [first for first, _ in places], [first + n for first, n in places]
        with self._reached():
            return self._files.cat_ranges([self._inner] * len(places), starts, ends, on_error="raise")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Have whatever goes wrong end in one error."""
        try:
            yield
        except Exception as error:  # every file system raises types of its own: botocore's, aiohttp's, OSError
            raise MissingFileError(
                f"cannot read '{self.address}'",
                got=f"{type(error).__name__}: {error}"[:160],
                expected="a file that is there and may be read",
            ) from error
