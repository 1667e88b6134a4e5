"""Output of a station: a claimed path, or a temporary folder that is deleted with the result.

The one way to an output: `claimed` (or an `Output`) around the work, from before the first byte until the result is
whole. It refuses what is taken, keeps a second writer away, tries to write, asks for space, and says a full disk in
words. A folder is written under another name and takes its place when it is whole (`whole_folder`).
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sae_train.errors import ConfigError, StoppedError, WorkbenchError
from sae_train.run.claims import claim_output, clear_output, require_disk
from sae_train.run.locks import NOT_ALLOWED, cannot_write, only_writer
from sae_train.run.runs import partial_path

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAID = ("errno = {}", "os error {}")  # how HDF5 and safetensors say which
RESUME = "free some space, then the same command with `resume`"
AGAIN = "free some space, then the same command again"


@contextmanager
def claimed(
    out: str | Path | None,
    *,
    overwrite: bool,
    resume: bool | None = None,
    field: str = "out",
    leftovers: Iterable[Path] = (),
    is_writer: bool = True,
) -> Iterator[None]:
    """Hold an output from before the work until it is whole; nothing is held where nobody named a path.

    Args:
        out: Where the result goes; None for nowhere.
        overwrite, resume, field, leftovers: As for `claim_output`.
        is_writer: False in a process whose neighbour holds the output for both.

    Raises:
        OutputExistsError, MissingFileError: As `claim_output`; the folder cannot be written to.
        BusyError: Another process writes it.
        DiskSpaceError: The disk is full already.
        StoppedError: It filled up on the way.
    """
    if out is None:
        yield
        return
    path, left = Path(out), tuple(leftovers)
    how = {"overwrite": overwrite, "resume": resume, "field": field, "leftovers": left}
    claim_output(path, **how)
    if not is_writer:
        yield
        return
    with only_writer(path):
        claim_output(path, **how)  # another writer may have come to its end in between
        require_disk(path, 0)
        with disk_may_fill(path, try_=AGAIN if resume is None else RESUME):
            yield


@contextmanager
def disk_may_fill(path: Path, *, try_: str = AGAIN, expected: str = "room for the result") -> Iterator[None]:
    """Turn a full disk, and a folder that can no longer be written to, into a message that says how to go on.

    Raises:
        StoppedError: The disk is full.
        MissingFileError: Nothing can be written beside `path`.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # HDF5 says RuntimeError where it closes a file
        number, text = getattr(error, "errno", None), str(error)
        if number in _DISK_ERRORS or any(form.format(n) in text for form in _SAID for n in _DISK_ERRORS):
            raise StoppedError(f"the disk is full: '{path}'", got=text[:160], expected=expected, try_=try_) from error
        if isinstance(error, OSError) and number in NOT_ALLOWED and _is_beside(error.filename, path):
            raise cannot_write(path, error) from error
        raise


def _is_beside(name: object, path: Path) -> bool:
    """Tell whether a file that could not be written lies in an output or beside it."""
    return isinstance(name, str | os.PathLike) and Path(name).absolute().is_relative_to(path.absolute().parent)


def put_in_place(folder: Path, out: Path, *, overwrite: bool) -> None:
    """Let a whole folder take the place of `out`, which is empty or may be replaced."""
    clear_output(out, overwrite=overwrite)
    if out.is_dir():  # empty
        out.rmdir()
    folder.replace(out)


@contextmanager
def whole_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write into, which takes the place of `out` if the block ends without an error."""
    partial = partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        put_in_place(partial, out, overwrite=overwrite)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


class Output:
    """The claim of a station on a path; the work is done while it is `held`.

    Whoever holds this object holds the files: where nobody named a path, they lie in a temporary folder that is removed
    with the last reference, or when Python ends.

    Args:
        out: Where the result goes; None takes a temporary folder.
        name: File or folder in the temporary folder.
        overwrite: What is there may be replaced.
        resume: What is there is to be continued; None where nothing can be.
        is_shared: Several processes write it, so that all of them have to know where.
        is_writer: This process holds it, for its neighbours as well.

    Attributes:
        path: Where to write.
        is_temporary: Whether no path was given.

    Raises:
        OutputExistsError, MissingFileError: As `claim_output`.
        ConfigError: Something is to be continued, or written by several, and nobody says where.
    """

    def __init__(
        self,
        out: str | Path | None,
        *,
        name: str,
        overwrite: bool = False,
        resume: bool | None = None,
        is_shared: bool = False,
        is_writer: bool = True,
    ) -> None:
        self.is_temporary = out is None
        self._how = {"overwrite": overwrite, "resume": resume}
        self._is_writer = is_writer
        if out is not None:
            self.path = Path(out)
            claim_output(self.path, **self._how)
            return
        if resume or is_shared:
            got = "resume without out" if resume else "several processes without out"
            raise ConfigError("nobody says where the result lies", got=got, expected="out, a path")
        folder = Path(tempfile.mkdtemp(prefix="sae-workbench-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = folder / name

    @contextmanager
    def held(self, leftovers: Iterable[Path] = ()) -> Iterator[Path]:
        """Hold the path while something is written there, as `claimed` does.

        Args:
            leftovers: Where an interrupted run leaves what can be continued.
        """
        with claimed(
            None if self.is_temporary else self.path, **self._how, leftovers=leftovers, is_writer=self._is_writer
        ):
            yield self.path

    def __deepcopy__(self, memo: object) -> Output:
        """Copies of a result share its files."""
        return self
