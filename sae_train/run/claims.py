"""What decides whether a run may write to a path: what lies there, what an earlier run left, room on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from sae_train.errors import ConfigError, DiskSpaceError, FileFormatError, MissingFileError, OutputExistsError
from sae_train.run.runs import require_name
from sae_train.text_files import read_json

NAME_BYTES = 200  # longest name of an output: a file system takes 255, and `.partial` and the like come behind it
DISK_RESERVE_BYTES = 64 * 2**20  # never fill a disk to the last byte
OWN_FOLDER_MARKS = (
    "run.json",
    "world.json",
    "planted.json",
    "import.json",
    "unlearning.json",
    "audit.json",
    "ledger.json",
    "demo.json",
    "removal.json",
)


def claim_output(
    path: Path, *, overwrite: bool, resume: bool | None = None, field: str = "out", leftovers: Iterable[Path] = ()
) -> None:
    """Refuse an output path that is taken, and one whose parent cannot hold it.

    Args:
        path: Where the output is to lie.
        overwrite, resume: What the caller asked for; `resume` is None where nothing can be continued.
        field: The parameter that named the path, for the message.
        leftovers: Where an interrupted run leaves what can be continued.

    Raises:
        OutputExistsError: `path` exists (a non-empty folder, or any file) and neither flag allows it, it is to be
            replaced and is a folder that is not ours, it is to be resumed and is finished, or an interrupted run left
            something that nobody says what to do with.
        MissingFileError: The parent is not a folder.
        ConfigError: The name is too long, or there is none.
    """
    require_name(path, field)
    longest = max(path.parts, key=lambda part: len(os.fsencode(part)), default="")
    if len(os.fsencode(longest)) > NAME_BYTES:
        raise ConfigError(
            f"a name in the output's path is too long: '{longest[:40]}…'",
            got=f"{len(os.fsencode(longest))} bytes",
            field=field,
            expected=f"at most {NAME_BYTES}",
        )
    for parent in path.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise MissingFileError(f"cannot write {path}", got=f"{parent} is a file", expected="a folder")
            break
    check_resume(path, is_finished, resume=bool(resume), overwrite=overwrite)
    if overwrite and not resume:
        _refuse_foreign(path)  # now, not after the work
    if overwrite or resume:
        return
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise OutputExistsError(
            f"the output exists already: '{path}'",
            got=path,
            field=field,
            expected="a new path, `overwrite` to replace it"
            + (", or `resume` to continue it" if resume is not None else ""),
            try_=f"`{field}`={path.with_name(path.stem + '-2' + path.suffix)}",
        )
    for left in leftovers:
        if left.exists():
            raise OutputExistsError(
                f"an interrupted run left something: '{left}'",
                got=f"{path} with neither `resume` nor `overwrite`",
                field=field,
                expected="`resume` to continue it, or `overwrite` to discard it and start again",
            )


def check_resume(out: Path | None, is_whole: Callable[[Path], bool], *, resume: bool, overwrite: bool) -> None:
    """Refuse to continue what lies nowhere, and what is finished.

    Args:
        out: Where the result goes; None for nowhere.
        is_whole: Tells whether the result is there already.
        resume, overwrite: What the caller asked for.

    Raises:
        ConfigError: There is no path.
        OutputExistsError: The run is finished.
    """
    if not resume:
        return
    if out is None:
        raise ConfigError("nobody says what to continue", got="resume without out", expected="out, a path")
    if not overwrite and is_whole(out):
        raise OutputExistsError(
            f"the run is finished: '{out}'",
            got=f"{out}, with `resume`",
            field="out",
            expected="an interrupted run, or `overwrite` in the place of `resume` to start again",
        )


def is_finished(folder: Path) -> bool:
    """Tell whether a run folder says that its run came to its end."""
    return _ended(folder) is not None


def require_finished(folder: Path, what: str) -> None:
    """Refuse a run folder that says that its run did not come to its end; one without a record says nothing.

    Raises:
        FileFormatError: The run was interrupted, or is still going on.
    """
    if (folder / "run.json").is_file() and _ended(folder) is None:
        raise FileFormatError(
            f"{what} in '{folder}' is not finished",
            got="a run that has not come to its end (run.json)",
            expected="a finished run",
            try_="the same command with `resume`",
        )


def _ended(folder: Path) -> object:
    """Return when a run came to its end; None where its record does not say."""
    record = folder / "run.json"
    try:
        return read_json(record).get("ended") if record.is_file() else None
    except (FileFormatError, AttributeError):
        return None


def clear_output(path: Path, *, overwrite: bool) -> None:
    """Remove what overwriting allows to be replaced; folders of ours only (those with a run.json)."""
    if not overwrite or not path.exists():
        return
    _refuse_foreign(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _refuse_foreign(path: Path) -> None:
    """Refuse a folder that has something in it and none of the files that ours have."""
    if path.is_dir() and any(path.iterdir()) and not any((path / f).exists() for f in OWN_FOLDER_MARKS):
        raise OutputExistsError(
            f"will not replace a folder that is not ours: '{path}'",
            got=f"{path} without any of {', '.join(OWN_FOLDER_MARKS)}",
            expected="a folder that an earlier run wrote",
        )


def require_disk(path: Path, n_bytes: int, *, try_: str = "another disk, or some space freed") -> None:
    """Refuse to start what cannot fit.

    Args:
        path: What is to be written.
        n_bytes: Its size.
        try_: What would make it smaller.

    Raises:
        DiskSpaceError: Fewer than `n_bytes` plus a reserve are free where `path` will lie.
    """
    folder = next(p for p in path.absolute().parents if p.exists())
    free = shutil.disk_usage(folder).free
    if n_bytes + DISK_RESERVE_BYTES > free:
        raise DiskSpaceError(
            f"the disk is too small for '{path}'",
            got=f"{free / 2**20:,.0f} MiB free in {folder}",
            expected=f"{(n_bytes + DISK_RESERVE_BYTES) / 2**20:,.0f} MiB",
            try_=try_,
        )
