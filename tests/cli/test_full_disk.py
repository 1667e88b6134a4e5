"""A disk that is really full: the kernel refuses what is written to a small file system, from random moments on.

The file system lives in the memory (tmpfs), in a name space of its own: nothing is mounted where anyone else could see
it, and it is gone with the process that holds it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SIZE = "160m"  # more than the reserve that is asked for before the work
MOUNT = 'mount -t tmpfs -o size=$1 none "$0" && echo ready && exec cat'
BLOCK = bytes(2**20)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of little room; skipped with a reason where none may be mounted."""
    if shutil.which("unshare") is None:
        pytest.skip("no small file system: there is no `unshare` here")
    place = tmp_path / "disk"
    place.mkdir()
    line = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, str(place), SIZE]
    holder = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stderr is not None
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"no small file system may be mounted here: {holder.stderr.read().strip()}")
        yield Path(f"/proc/{holder.pid}/root{place}")
    finally:
        holder.communicate()  # its input ends, and so does it


def fill(disk: Path) -> Path:
    """Fill a disk to the last byte with a file of somebody else; return the file."""
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as stream:
        while stream.write(BLOCK):
            pass
    assert os.statvfs(disk).f_bavail == 0
    return ballast


@pytest.mark.parametrize("command", ["cache-activations", "label-entities", "unlearn"])
def test_a_disk_that_is_really_full(command, small_disk, moments, failing, wb, failure_table):
    with moments(0, str) as counted:
        assert wb(*failing.words(command, small_disk / "counted" / "out")).code == 0
    shutil.rmtree(small_disk / "counted")
    refused = 0
    for moment in random.Random(command).sample(range(1, counted.passed + 1), failure_table.full_disks[command]):
        out = small_disk / str(moment) / "out"
        out.parent.mkdir()
        with moments(moment, lambda: fill(small_disk)):
            done = wb(*failing.words(command, out))
        (small_disk / "ballast").unlink()
        if done.code == 0:  # it had room for all of it: an activation store takes its room before the first row
            failing.check_whole(command, out)
        else:
            refused += done.code == 1
            said = {1: "the disk is full", 2: "the disk is too small"}[done.code]  # 2: it asks for space once more
            assert said in done.err and "Traceback" not in done.err, done.err
            failing.check_continued(command, out)
        shutil.rmtree(out.parent)
    assert refused
