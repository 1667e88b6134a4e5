"""One writer at a time: with the kernel's locks, without any, and where nothing may be written."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sae_train.errors import BusyError, DiskSpaceError, MissingFileError
from sae_train.run import locks
from sae_train.run.locks import lock_file, only_writer
from sae_train.run.outputs import claimed

NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]


def elsewhere(path: Path) -> None:
    """Take the lock as another writer would: not further down in the same call."""

    def take() -> None:
        with only_writer(path):
            pass

    with ThreadPoolExecutor(1) as other:
        other.submit(take).result()


@pytest.fixture(params=[0, *NO_LOCKS])
def file_system(request, monkeypatch) -> int:
    """A file system with locks, and some without: flock fails with this number."""

    def fails(_descriptor, _operation):
        raise OSError(request.param, os.strerror(request.param))

    if request.param:
        monkeypatch.setattr(locks.fcntl, "flock", fails)
    return request.param


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path, file_system):
    out = tmp_path / "runs" / "a.h5"
    with only_writer(out):
        with pytest.raises(BusyError, match=r"another process[\s\S]*a\.h5\.lock") as refused:
            elsewhere(out)
        assert lock_file(out).exists()
        if file_system:
            assert f"process {os.getpid()}" in str(refused.value)
        with only_writer(out):  # whoever holds it already, holds it again
            pass
        with pytest.raises(BusyError):
            elsewhere(out)
    assert not list(tmp_path.iterdir()), "the lock is gone, and the folder that was made for it"
    elsewhere(out)


def test_a_file_system_without_locks_is_said_with_what_to_do_after_a_crash(tmp_path, monkeypatch, caplog):
    def fails(_descriptor, _operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", fails)
    with caplog.at_level(logging.WARNING), only_writer(tmp_path / "a.h5"):
        pass
    assert "has no locks" in caplog.text and "a.h5.lock" in caplog.text


def test_an_error_that_is_not_about_missing_locks_is_not_swallowed(tmp_path, monkeypatch):
    def fails(_descriptor, _operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", fails)
    with pytest.raises(MissingFileError, match="Input/output"), only_writer(tmp_path / "a.h5"):
        pass


@contextmanager
def read_only_folder() -> Iterator[Path]:
    """A folder in which nothing may be made, also where the tests run as root."""
    folder, user = Path(tempfile.mkdtemp()), os.geteuid()
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work():
    with read_only_folder() as folder:
        for out in (folder / "a.h5", folder / "new" / "a.h5"):
            with pytest.raises(MissingFileError, match="cannot write"), claimed(out, overwrite=False):
                raise AssertionError("the work began")
        assert not list(folder.iterdir())


def test_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(DiskSpaceError, match="too small"), claimed(tmp_path / "a", overwrite=False):
        raise AssertionError("the work began")
