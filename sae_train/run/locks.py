"""One writer at a time: the lock of an output, also where the file system has no locks.

The lock of `OUT` is the file `OUT.lock` beside it, held from before the work until the output is whole. The kernel
takes a lock (flock) away with a process that dies. Where the file system has none (NFS without lockd, some cluster
file systems), the existence of the file is the lock: it holds the process and the machine, and is left by a crash.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from sae_train.errors import BusyError, MissingFileError
from sae_train.run.notes import note

try:
    import fcntl
except ImportError:  # Windows, which has locks of another kind
    fcntl = None

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})
_held: ContextVar[frozenset[Path]] = ContextVar("held outputs", default=frozenset())


def lock_file(path: Path) -> Path:
    """Return the lock file of an output.

    Example:
        >>> lock_file(Path("runs/acts.h5")).name
        'acts.h5.lock'
    """
    whole = path.absolute()
    return whole.with_name(whole.name + ".lock")


@contextmanager
def only_writer(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of an output; the lock file goes away with it.

    Who holds it already, further up in the same call, holds it again. The folders above `path` are made, and removed
    again where nothing came to lie in them.

    Args:
        path: The output, a file or a folder.
        wait_s: How long to wait for another writer, in seconds.

    Raises:
        BusyError: Another process holds it.
        MissingFileError: Nothing can be written there.
    """
    key = Path(os.path.realpath(path))
    if key in _held.get():
        yield
        return
    place = lock_file(path)
    made = _make_folders(place.parent)
    try:
        lock = _acquired(place, path, wait_s)
        token = _held.set(_held.get() | {key})
        try:
            yield
        finally:
            _held.reset(token)
            with suppress(OSError):
                place.unlink()  # while it is held: afterwards it might be another writer's
            lock.release()
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def cannot_write(path: Path, error: OSError) -> MissingFileError:
    """Return the error that says why nothing can be written at a path."""
    return MissingFileError(
        f"cannot write '{path}'",
        got=f"{error.strerror or error}: '{error.filename or path.parent}'",
        expected="a folder in which files may be made",
    )


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, the outermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()][::-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return missing


def _acquired(place: Path, path: Path, wait_s: float) -> BaseFileLock:
    """Return the lock, held."""
    try:
        lock = FileLock(place) if has_locks(place.parent) else SoftFileLock(place)
        lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise BusyError(
            f"another process is writing '{path}'",
            got=f"'{place}' is held{_holder(place)}",
            expected="one writer",
            try_=f"another path; or remove '{place}', if no such process runs any more",
        ) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    if isinstance(lock, SoftFileLock):
        note(
            f"the file system of '{place.parent}' has no locks: '{place.name}' keeps a second writer away, and is to be"
            " removed by hand after a crash"
        )
    return lock


def has_locks(folder: Path) -> bool:
    """Tell whether the file system of a folder has locks, by taking one on a new file.

    Raises:
        OSError: No file can be made there.
    """
    descriptor, name = tempfile.mkstemp(prefix=".sae-workbench-", dir=folder)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    finally:
        os.close(descriptor)
        os.unlink(name)
    return True


def _holder(place: Path) -> str:
    """Return who holds a lock, where its file says so."""
    try:
        words = place.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return ""
    return f" by process {words[0]} on {words[1]}" if len(words) >= 2 else ""
