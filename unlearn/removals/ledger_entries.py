"""Entries of a ledger: JSON lines chained by hash, read with every check that the chain allows.

Entry i says hash(i) = SHA-256 of its own canonical JSON without `hash`, which holds `previous` = hash(i - 1); the first
one holds 64 zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sae_train.errors import FileFormatError, InputError, SchemaError
from sae_train.run.runs import jsonable, now, require_file
from sae_train.text_files import json_of

SCHEMA = "sae-workbench/ledger"
VERSION = 1
START = "0" * 64
REMOVAL, ROLLBACK = "removal", "rollback"


@dataclass(frozen=True)
class AuditMark:
    """What an entry keeps of an audit.

    Attributes:
        file: Its `audit.json`, as seen from the ledger's folder.
        sha256: Of the file's bytes.
        verdict: `pass`, `fail` or `inconclusive`.
    """

    file: str
    sha256: str
    verdict: str


@dataclass(frozen=True)
class Entry:
    """One line of a ledger.

    Attributes:
        schema, schema_version: What kind of file this is.
        index: Place in the chain, from 0.
        previous: `hash` of the entry before.
        time: UTC, ISO 8601.
        action: `removal`, or `rollback` of an earlier one.
        request: Names to forget and the reference of the request; for a rollback `entry`, the index of the removal.
        model: Folder and hash of the weights, its base and that one's hash, the SHA-256 of every file in the folder.
        inputs: Hashes and sets that went in, as `unlearning.json` has them.
        config: What ran.
        audit: None where there was no audit.
        hash: SHA-256 of all of the above.
    """

    schema: str
    schema_version: int
    index: int
    previous: str
    time: str
    action: str
    request: dict[str, Any]
    model: dict[str, Any]
    inputs: dict[str, Any]
    config: dict[str, Any]
    audit: AuditMark | None
    hash: str

    @property
    def targets(self) -> list[str]:
        """Return the names that were to be forgotten."""
        return [str(name) for name in self.request.get("forget", [])]

    def line(self) -> str:
        """Return the entry as it stands in the file: canonical JSON, so that one content has one spelling."""
        return _canonical(asdict(self))


def _canonical(value: dict[str, Any]) -> str:
    """Return JSON with sorted keys and without spaces."""
    return json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def entry_hash(values: dict[str, Any]) -> str:
    """Return the SHA-256 that an entry with these values carries.

    Example:
        >>> entry_hash({"index": 0, "hash": "x"}) == entry_hash({"index": 0})
        True
    """
    return hashlib.sha256(_canonical({k: v for k, v in values.items() if k != "hash"}).encode()).hexdigest()


def next_entry(before: Sequence[Entry], values: Mapping[str, Any]) -> Entry:
    """Return the entry that continues a chain."""
    whole = {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "index": len(before),
        "previous": before[-1].hash if before else START,
        "time": now(),
        **jsonable(dict(values)),
    }
    return _entry({**whole, "hash": entry_hash(whole)})


def read_entries(path: Path) -> list[Entry]:
    """Read a ledger and check its chain; the files it vouches for are not read.

    Raises:
        MissingFileError: There is no such file.
        FileFormatError: A line is no entry, is not spelled as it was written, or does not continue the chain.
        SchemaError: The file is of another kind, or newer than this program.
    """
    require_file(path, "a ledger", field="ledger")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="UTF-8 text") from error
    if text and not text.endswith("\n"):
        raise FileFormatError(f"'{path}' ends in the middle of a line", got="no line break", expected="whole entries")
    entries: list[Entry] = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        entries.append(_parsed(line, f"line {number} of '{path}'", entries))
    return entries


def _parsed(line: str, where: str, before: Sequence[Entry]) -> Entry:
    """Check one line against itself and against the entries before it."""
    try:
        raw: Any = json_of(line)
    except ValueError as error:
        raise FileFormatError(f"{where} is not JSON", got=line[:80], expected="an entry") from error
    names = {f.name for f in fields(Entry)}
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise SchemaError(f"{where} is no entry of a ledger", got=line[:80], expected=f'"schema": "{SCHEMA}"')
    if raw.get("schema_version") != VERSION:
        raise SchemaError(
            f"{where} is of another version",
            got=f"{SCHEMA} {raw.get('schema_version')}",
            expected=f"{SCHEMA} {VERSION}",
        )
    if set(raw) != names:
        raise FileFormatError(
            f"{where} has other fields", got=", ".join(sorted(raw)), expected=", ".join(sorted(names))
        )
    if raw["hash"] != entry_hash(raw) or line != _canonical(raw):
        raise FileFormatError(f"{where} was changed", got=f"content {entry_hash(raw)}", expected=f"hash {raw['hash']}")
    previous = before[-1].hash if before else START
    if (raw["index"], raw["previous"]) != (len(before), previous):
        raise FileFormatError(
            f"{where} does not continue the chain",
            got=f"entry {raw['index']} behind {raw['previous']}",
            expected=f"entry {len(before)} behind {previous}",
        )
    kinds = {"index": int, **dict.fromkeys(("previous", "time", "action", "hash"), str)}
    kinds |= dict.fromkeys(("request", "model", "inputs", "config"), dict)
    wrong = [name for name, kind in kinds.items() if not isinstance(raw[name], kind)]
    if wrong or not _is_mark(raw["audit"]):
        raise FileFormatError(f"{where} is no entry", got=line[:80], expected=f"a usable {(wrong or ['audit'])[0]}")
    if raw["action"] == ROLLBACK and not isinstance(raw["request"].get("entry"), int):
        raise FileFormatError(f"{where} is no rollback", got=str(raw["request"])[:80], expected='"entry": a number')
    return _entry(raw)


def _is_mark(value: Any) -> bool:
    """Tell whether this is what an entry keeps of an audit, or None."""
    if value is None:
        return True
    is_whole = isinstance(value, dict) and value.keys() == {f.name for f in fields(AuditMark)}
    return is_whole and all(isinstance(part, str) for part in value.values())


def _entry(values: Mapping[str, Any]) -> Entry:
    """Return an entry from the values of its line."""
    mark = values["audit"]
    return Entry(**{**values, "audit": None if mark is None else AuditMark(**mark)})


def active_removals(entries: Sequence[Entry]) -> list[Entry]:
    """Return the removals that no later entry rolled back, oldest first."""
    undone = {e.request["entry"] for e in entries if e.action == ROLLBACK}
    return [e for e in entries if e.action == REMOVAL and e.index not in undone]


def newest_removal(entries: Sequence[Entry], index: int) -> Entry:
    """Return the removal to roll back.

    Raises:
        InputError: It is not the newest active one.
    """
    active = active_removals(entries)
    if not active or active[-1].index != index:
        raise InputError(
            f"entry {index} cannot be rolled back",
            got=f"{index}, active removals: {', '.join(str(e.index) for e in active) or 'none'}",
            expected="the newest active removal: later ones were made from its model",
        )
    return active[-1]
