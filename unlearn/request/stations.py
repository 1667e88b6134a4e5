"""Stations that are kept: each has a folder and a record of what went in, and is skipped while that is the same.

The name of a folder in the workshop ends in a hash of what went in, so that other settings, kinds and models lie side
by side and nothing is replaced. A station that was cut off has a record without an end: it is made again in the same
folder, where it may continue what lies there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_train.errors import FileFormatError
from sae_train.run.locks import only_writer
from sae_train.run.notes import note
from sae_train.run.runs import jsonable, now, text_hash, write_json
from sae_train.text_files import read_json

RECORD = "station.json"
VERSION = 1  # of what stations make; another one makes them anew
HASH_CHARS = 12

Make = Callable[[Path], None]


@dataclass(frozen=True)
class Visit:
    """One station of a request, as it went.

    Attributes:
        station: Its name.
        folder: Where its files lie.
        seconds: What it took when it was made, in the last attempt where it was cut off.
        is_kept: Whether an earlier run had made it.
    """

    station: str
    folder: Path
    seconds: float
    is_kept: bool


@dataclass
class Workshop:
    """The stations of a request.

    Attributes:
        folder: Where the stations that other requests may use lie.
        visits: Every station so far, in order.
    """

    folder: Path
    visits: list[Visit] = field(default_factory=list)

    def shared(self, station: str, identity: Mapping[str, Any], make: Make) -> Path:
        """Return the folder of a station that any request may use; make it where nobody has.

        Args:
            station: Its name, without blanks.
            identity: All that its files depend on, as JSON holds it.
            make: Writes into the folder; what a run that was cut off left is there.
        """
        key = identity_hash(identity)[:HASH_CHARS]
        folder = self.folder / f"{station}-{key}"
        return self._visit(station, folder, folder / RECORD, identity, make)

    def own(self, station: str, folder: Path, record: Path, identity: Mapping[str, Any], make: Make) -> Path:
        """Return the folder of a station of this request alone; what other inputs left there is replaced.

        Args:
            station: Its name.
            folder: Where it writes.
            record: Where the record lies: beside, since nothing is added to a model's folder.
            identity, make: As for `shared`.
        """
        begun = read_record(record)
        if begun is not None and begun["hash"] != identity_hash(identity):
            _remove(folder)
            record.unlink()
        return self._visit(station, folder, record, identity, make)

    def _visit(self, station: str, folder: Path, record: Path, identity: Mapping[str, Any], make: Make) -> Path:
        """Make a station unless its record says that it is whole."""
        record.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(record):
            begun = read_record(record)
            if begun is not None and begun["ended"]:
                note(f"{station}: kept from an earlier run ({folder})", is_news=True)
                self.visits.append(Visit(station, folder, float(begun["seconds"]), is_kept=True))
                return folder
            note(f"{station}: begins{'' if begun is None else ' again where it was cut off'}", is_news=True)
            started = time.monotonic()
            values = {
                "station": station,
                "hash": identity_hash(identity),
                "inputs": jsonable(identity),
                "begun": now(),
                "ended": None,
            }
            write_json(record, values)
            make(folder)
            seconds = time.monotonic() - started
            write_json(record, {**values, "ended": now(), "seconds": seconds})
        note(f"{station}: {seconds:.1f} s", is_news=True)
        self.visits.append(Visit(station, folder, seconds, is_kept=False))
        return folder


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return a hash of what a station's files depend on; the order of keys does not count.

    Example:
        >>> identity_hash({"a": 1, "b": 2}) == identity_hash({"b": 2, "a": 1}) != identity_hash({"a": 1})
        True
    """
    return text_hash([json.dumps({"version": VERSION, **jsonable(identity)}, sort_keys=True, ensure_ascii=False)])


def read_record(record: Path) -> dict[str, Any] | None:
    """Return the record of a station; None where there is none.

    Raises:
        FileFormatError: It is no such record.
    """
    if not record.is_file():
        return None
    found = read_json(record)
    if not isinstance(found, dict) or not {"hash", "ended"} <= found.keys():
        raise FileFormatError(f"'{record}' is no record of a station", got=str(found)[:60], expected="hash, ended, …")
    return found


def _remove(path: Path) -> None:
    """Remove a folder of ours, and what an interrupted run left beside it."""
    for left in (path, path.with_name(path.name + ".run"), path.with_name(path.name + ".partial")):
        if left.is_dir():
            shutil.rmtree(left)
