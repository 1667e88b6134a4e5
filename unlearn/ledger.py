"""The ledger of removals: a JSON-lines file whose entries are chained by hash, and the files they vouch for.

Entry i says hash(i) = SHA-256 of its own canonical JSON without `hash`, which holds `previous` = hash(i - 1); the first
one holds 64 zeros. Every file of the unlearned model's folder and its `audit.json` stand in the entry with their
SHA-256. So a changed byte in an entry, or in a file it vouches for, is found by `verify_ledger`. What a chain alone
cannot show is that its last entries were cut off or that somebody wrote all of it anew: keep the last hash
elsewhere and pass it as `head`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sae_train.errors import BusyError, FileFormatError, InputError, MissingFileError, SchemaError
from sae_train.runs import file_hash, jsonable, now, require_file, write_text
from unlearn.audit_json import load_report
from unlearn.record import RECORD, read_record

SCHEMA = "sae-workbench/ledger"
VERSION = 1
START = "0" * 64
REMOVAL, ROLLBACK = "removal", "rollback"
_LOCK_WAIT_S = 10.0


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


def read_ledger(path: Path) -> list[Entry]:
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
        entries.append(_parse(line, f"line {number} of '{path}'", entries))
    return entries


def _parse(line: str, where: str, before: Sequence[Entry]) -> Entry:
    """Check one line against itself and against the entries before it."""
    try:
        raw: Any = json.loads(line)
    except json.JSONDecodeError as error:
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
    return _entry(raw)


def _entry(values: dict[str, Any]) -> Entry:
    """Return an entry from the values of its line."""
    mark = values["audit"]
    return Entry(**{**values, "audit": None if mark is None else AuditMark(**mark)})


def active_removals(entries: Sequence[Entry]) -> list[Entry]:
    """Return the removals that no later entry rolled back, oldest first."""
    undone = {e.request["entry"] for e in entries if e.action == ROLLBACK}
    return [e for e in entries if e.action == REMOVAL and e.index not in undone]


def add_removal(ledger: Path, unlearned: Path, *, audit: Path | None = None, reference: str = "") -> Entry:
    """Append a removal: the folder of an unlearned model, and its audit where there is one.

    Args:
        ledger: The file; made if it is not there.
        unlearned: A folder of `wb unlearn`.
        audit: A folder of `wb audit`, or its `audit.json`.
        reference: What the request is called outside, such as a ticket.

    Raises:
        InputError: The folder or the audit cannot be used, they are not of one model, the removal is in the ledger
            already, or it was not made from the model of the newest removal, which would bring that one back.
    """
    record = read_record(str(unlearned))
    if not record.get("model_hash") or not record.get("inputs", {}).get("model_hash"):
        raise MissingFileError(
            f"not an unlearned model: '{unlearned}'", got=f"no usable {RECORD} in it", expected="a folder of wb unlearn"
        )
    base = str(record["inputs"].get("model", ""))
    values = {
        "action": REMOVAL,
        "request": {"forget": record["inputs"].get("forget", []), "reference": reference},
        "model": {
            "folder": _relative(unlearned, ledger),
            "hash": record["model_hash"],
            "base": _relative(Path(base), ledger) if Path(base).exists() else base,
            "base_hash": record["inputs"]["model_hash"],
            "files": folder_files(unlearned),
        },
        "inputs": record["inputs"],
        "config": record.get("config", {}),
        "audit": None if audit is None else _mark(audit, ledger, record["model_hash"]),
    }
    with _locked(ledger):
        entries = read_ledger(ledger) if ledger.exists() else []
        active = active_removals(entries)
        if any(e.model["hash"] == record["model_hash"] for e in active):
            raise InputError(
                f"'{unlearned}' is in the ledger already", got=record["model_hash"], expected="a new removal"
            )
        if active and active[-1].model["hash"] != record["inputs"]["model_hash"]:
            raise InputError(
                f"'{unlearned}' does not build on the newest removal",
                got=f"made from {record['inputs'].get('model')}, {record['inputs']['model_hash'][:12]}…",
                expected=f"made from {active[-1].model['folder']}, {active[-1].model['hash'][:12]}…",
                try_=f"wb unlearn --model {_resolved(active[-1].model['folder'], ledger)} …",
            )
        return _append(ledger, entries, values)


def roll_back(ledger: Path, index: int, *, base_hash: str) -> Entry:
    """Append that the newest removal is off; the model to use is its base again.

    Args:
        ledger: The file.
        index: Index of the removal's entry.
        base_hash: Hash of the weights of the base as it is now.

    Raises:
        InputError: Not the newest active removal (later ones were built on it), or the base is not what it was.
    """
    with _locked(ledger):
        entries = read_ledger(ledger)
        entry = newest_removal(entries, index)
        if base_hash != entry.model["base_hash"]:
            raise InputError(
                f"the model under entry {index} is not what it was",
                got=f"{entry.model['base']} with weights {base_hash[:12]}…",
                expected=f"weights {entry.model['base_hash'][:12]}…",
            )
        values = {
            "action": ROLLBACK,
            "request": {"entry": index, "forget": entry.request["forget"]},
            "model": {"folder": entry.model["base"], "hash": base_hash},
            "inputs": {},
            "config": {},
            "audit": None,
        }
        return _append(ledger, entries, values)


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


def verify_ledger(ledger: Path, *, head: str | None = None) -> list[str]:
    """Return what is wrong with a ledger and the files it vouches for, a sentence each; empty if nothing is.

    Args:
        ledger: The file.
        head: Hash of the last entry as it was kept elsewhere; without it a shortened chain cannot be seen.

    Raises:
        MissingFileError: There is no such file.
    """
    try:
        entries = read_ledger(ledger)
    except FileFormatError as error:
        return [f"{error.what}: {error.got} instead of {error.expected}"]
    found = []
    last = entries[-1].hash if entries else START
    if head is not None and head != last:
        found.append(f"the last entry is {last}, not {head}: entries are missing or were written anew")
    for entry in entries:
        if entry.action == REMOVAL:
            found += [f"entry {entry.index}: {text}" for text in _file_complaints(entry, ledger)]
    return found


def _file_complaints(entry: Entry, ledger: Path) -> list[str]:
    """Compare the files of one entry with their hashes."""
    folder = _resolved(entry.model["folder"], ledger)
    expected = {folder / name: digest for name, digest in entry.model["files"].items()}
    if entry.audit is not None:
        expected[_resolved(entry.audit.file, ledger)] = entry.audit.sha256
    missing = [f"'{path}' is not there" for path in expected if not path.is_file()]
    changed = [
        f"'{path}' was changed" for path, digest in expected.items() if path.is_file() and file_hash(path) != digest
    ]
    added = sorted(set(folder_files(folder, hashed=False)) - set(entry.model["files"])) if folder.is_dir() else []
    return [*missing, *changed, *(f"'{folder / name}' was added" for name in added)]


def folder_files(folder: Path, *, hashed: bool = True) -> dict[str, str]:
    """Return every file of a model's folder with its SHA-256 (or none, to save the reading)."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): file_hash(p) if hashed else "" for p in paths}


def _mark(audit: Path, ledger: Path, model_hash: str) -> AuditMark:
    """Return where an audit lies, its hash and its verdict; refuse one of another model."""
    path = audit / "audit.json" if audit.is_dir() else audit
    require_file(path, "an audit", field="audit")
    report = load_report(path)
    of = report.request.unlearned_hash
    if of != model_hash:
        raise InputError(f"'{path}' is about another model", got=f"weights {of}", expected=f"weights {model_hash}")
    return AuditMark(file=_relative(path, ledger), sha256=file_hash(path), verdict=report.verdict)


def _append(ledger: Path, entries: Sequence[Entry], values: dict[str, Any]) -> Entry:
    """Write the ledger anew with one more entry, whole or not at all."""
    whole = {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "index": len(entries),
        "previous": entries[-1].hash if entries else START,
        "time": now(),
        **jsonable(values),
    }
    entry = _entry({**whole, "hash": entry_hash(whole)})
    write_text(ledger, "".join(f"{e.line()}\n" for e in (*entries, entry)))
    return entry


@contextmanager
def _locked(ledger: Path) -> Iterator[None]:
    """Keep a second writer away while an entry is added."""
    ledger.absolute().parent.mkdir(parents=True, exist_ok=True)
    path = ledger.with_name(ledger.name + ".lock")
    try:
        with FileLock(path, timeout=_LOCK_WAIT_S):
            yield
    except Timeout as error:
        raise BusyError("another process writes this ledger", got=f"{path} is held", expected="one writer") from error


def _relative(path: Path, ledger: Path) -> str:
    """Return a path as seen from the ledger's folder, so that both can be moved together."""
    return Path(os.path.relpath(path.absolute(), ledger.absolute().parent)).as_posix()


def _resolved(text: str, ledger: Path) -> Path:
    """Return the path that `_relative` wrote."""
    return Path(os.path.normpath(ledger.absolute().parent / text))


def base_model(entry: Entry, ledger: Path) -> str:
    """Return the model that a removal was made from: a path, or what it was called (a hub id, `fact-world`)."""
    path = _resolved(entry.model["base"], ledger)
    return str(path) if path.exists() else str(entry.model["base"])


def newest_model(entries: Sequence[Entry], ledger: Path) -> str | None:
    """Return the folder of the model with all active removals; None where there is none."""
    active = active_removals(entries)
    return str(_resolved(active[-1].model["folder"], ledger)) if active else None
