"""Files of other formats that are converted once: a cache folder of this machine, by the hash of what was converted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from sae_train.errors import BusyError, MissingFileError
from sae_train.run.locks import only_writer
from sae_train.run.notes import note
from sae_train.run.outputs import disk_may_fill, whole_folder
from sae_train.run.runs import file_hash, write_json
from sae_train.text_files import read_json

VARIABLE = "WB_CACHE"
"""Environment variable that names another cache folder."""
RECORD = "converted.json"
VERSION = 1  # of how files are converted: what an earlier program converted otherwise is not found
WAIT_S = 3600.0  # for another process that converts the same file


@dataclass(frozen=True)
class Converted:
    """One folder of the cache.

    Attributes:
        folder: Where it lies.
        source: The file it was made from, as it was called then.
        n_bytes: Its size.
    """

    folder: Path
    source: str
    n_bytes: int


def cache_folder() -> Path:
    """Return where converted files are kept: `WB_CACHE`, or the user's cache folder of this system."""
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_path("sae-workbench"))


def converted(source: Path, convert: Callable[[Path], None]) -> Path | None:
    """Return the folder that a file was converted into; the first time, convert it.

    Args:
        source: The file.
        convert: Writes the folder.

    Returns:
        The folder; None where nothing can be written in the cache.

    Raises:
        StoppedError: The disk filled up.
    """
    folder = cache_folder() / _key(source)
    try:
        # Who comes while it is converted waits, and finds it then.
        with only_writer(folder, wait_s=WAIT_S):
            if not (folder / RECORD).is_file():
                note(f"converting '{source}' once, into '{folder}'; a large file takes minutes", is_news=True)
                with disk_may_fill(folder), whole_folder(folder, overwrite=True) as partial:
                    convert(partial)
                    write_json(partial / RECORD, {"source": str(source.absolute())})
                size = _size(folder) / 2**20
                note(f"converted: {size:,.0f} MiB in '{folder}' (`wb cache clear` removes it)", is_news=True)
    except (MissingFileError, BusyError) as error:
        note(f"nothing is kept of '{source}', which is converted anew each time: {error.what}")
        return None
    return folder


def entries() -> list[Converted]:
    """Return what lies in the cache."""
    found = sorted(cache_folder().glob(f"*/{RECORD}"))
    return [Converted(p.parent, str(_recorded(p).get("source", "")), _size(p.parent)) for p in found]


def clear() -> list[Converted]:
    """Remove everything that was converted, and return what that was; nothing else in the folder is touched."""
    found = entries()
    for entry in found:
        with only_writer(entry.folder):
            shutil.rmtree(entry.folder)
    return found


def _recorded(path: Path) -> dict[str, object]:
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def _key(source: Path) -> str:
    """Return the name of a file's folder: its own, and the hash of its bytes."""
    return f"{source.stem[:60]}-v{VERSION}-{file_hash(source)[:24]}"


def _size(folder: Path) -> int:
    """Return the bytes of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
