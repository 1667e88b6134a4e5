"""The ledger of removals: a hash-chained JSON-lines file, and the files whose hashes it records.

Every file of the unlearned model's folder and its `audit.json` stand in the entry with their SHA-256. So a changed byte
in an entry, or in a file it vouches for, is found by `Ledger.verify`. What a chain alone cannot show is that its last
entries were cut off or that the whole file was rewritten: keep the last hash elsewhere and pass it as `head`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_train.errors import FileFormatError, InputError, MissingFileError
from sae_train.lm.models import load_lm, weights_hash
from sae_train.run.locks import only_writer
from sae_train.run.outputs import disk_may_fill
from sae_train.run.runs import file_hash, require_file, write_text
from unlearn.auditing.audit_json import load_report
from unlearn.removals.ledger_entries import (
    REMOVAL,
    ROLLBACK,
    START,
    AuditMark,
    Entry,
    active_removals,
    newest_removal,
    next_entry,
    read_entries,
)
from unlearn.removals.record import RECORD, RemovalRecord

_LOCK_WAIT_S = 10.0


class Ledger:
    """The chain of removals in one file.

    Paths in it are relative to its folder, so that ledger and models can be moved together.

    Example:
        >>> Ledger("removals.jsonl").path.name
        'removals.jsonl'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def entries(self) -> list[Entry]:
        """Read the ledger and check its chain; the files it vouches for are not read.

        Raises:
            MissingFileError: There is no such file.
            FileFormatError: A line is no entry, is not spelled as it was written, or does not continue the chain.
            SchemaError: The file is of another kind, or newer than this program.
        """
        return read_entries(self.path)

    def removals(self) -> list[Entry]:
        """Return the removals that no later entry rolled back, oldest first."""
        return active_removals(self.entries())

    def head(self) -> str:
        """Return the hash of the last entry: what to keep elsewhere."""
        entries = self.entries()
        return entries[-1].hash if entries else START

    def newest_model(self) -> str | None:
        """Return the folder of the model with all active removals; None where there is none."""
        active = self.removals()
        return str(self._resolved(active[-1].model["folder"])) if active else None

    def base_of(self, entry: Entry) -> str:
        """Return the model that a removal was made from: a path, or what it was called (a hub id, `fact-world`)."""
        path = self._resolved(entry.model["base"])
        return str(path) if path.exists() else str(entry.model["base"])

    def add(self, unlearned: str | Path, *, audit: str | Path | None = None, reference: str = "") -> Entry:
        """Append a removal: the folder of an unlearned model, and its audit where there is one.

        Args:
            unlearned: A folder of `wb unlearn`.
            audit: A folder of `wb audit`, or its `audit.json`.
            reference: What the request is called outside, such as a ticket.

        Raises:
            InputError: The folder or the audit cannot be used, they are not of one model, the removal is in the ledger
                already, or it was not made from the model of the newest removal, which would bring that one back.
        """
        folder = Path(unlearned)
        record = RemovalRecord.read(folder).values
        if not record.get("model_hash") or not record.get("inputs", {}).get("model_hash"):
            raise MissingFileError(
                f"not an unlearned model: '{unlearned}'",
                got=f"no usable {RECORD} in it",
                expected="a folder of wb unlearn",
            )
        base = str(record["inputs"].get("model", ""))
        values = {
            "action": REMOVAL,
            "request": {"forget": record["inputs"].get("forget", []), "reference": reference},
            "model": {
                "folder": self._relative(folder),
                "hash": record["model_hash"],
                "base": self._relative(Path(base)) if Path(base).exists() else base,
                "base_hash": record["inputs"]["model_hash"],
                "files": folder_files(folder),
            },
            "inputs": record["inputs"],
            "config": record.get("config", {}),
            "audit": None if audit is None else self._mark(Path(audit), record["model_hash"]),
        }
        with self._locked():
            entries = self.entries() if self.path.exists() else []
            self._check_next(folder, record, active_removals(entries))
            return self._append(entries, values)

    def _check_next(self, folder: Path, record: Mapping[str, Any], active: Sequence[Entry]) -> None:
        """Refuse a removal that is in the ledger already, and one that was not made from the newest model."""
        if any(e.model["hash"] == record["model_hash"] for e in active):
            raise InputError(f"'{folder}' is in the ledger already", got=record["model_hash"], expected="a new removal")
        if active and active[-1].model["hash"] != record["inputs"]["model_hash"]:
            raise InputError(
                f"'{folder}' does not build on the newest removal",
                got=f"made from {record['inputs'].get('model')}, {record['inputs']['model_hash'][:12]}…",
                expected=f"made from {active[-1].model['folder']}, {active[-1].model['hash'][:12]}…",
                try_=f"unlearning from {self._resolved(active[-1].model['folder'])}",
            )

    def roll_back(self, index: int, *, device: str = "auto") -> Entry:
        """Append that the newest removal is off; the model to use is its base again. Nothing is deleted.

        The base is loaded and its weights are compared with the hash in the entry.

        Args:
            index: Index of the removal's entry.
            device: Where the base is loaded.

        Raises:
            InputError: Not the newest active removal (later ones were built on it), or the base is not what it was.
        """
        base = self.base_of(newest_removal(self.entries(), index))
        return self._roll_back(index, weights_hash(load_lm(base, device=device).model))

    def _roll_back(self, index: int, base_hash: str) -> Entry:
        """Append a rollback to a base whose weights have this hash."""
        with self._locked():
            entries = self.entries()
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
            return self._append(entries, values)

    def verify(self, *, head: str | None = None) -> list[str]:
        """Return what is wrong with the ledger and the files it vouches for, a sentence each; empty if nothing is.

        Args:
            head: Hash of the last entry as it was kept elsewhere; without it a shortened chain cannot be seen.

        Raises:
            MissingFileError: There is no such file.
        """
        try:
            entries = self.entries()
        except FileFormatError as error:
            return [f"{error.what}: {error.got} instead of {error.expected}"]
        found = []
        last = entries[-1].hash if entries else START
        if head is not None and head != last:
            found.append(f"the last entry is {last}, not {head}: entries are missing or were written anew")
        for entry in entries:
            if entry.action == REMOVAL:
                found += [f"entry {entry.index}: {text}" for text in self._file_complaints(entry)]
        return found

    def _file_complaints(self, entry: Entry) -> list[str]:
        """Compare the files of one entry with their hashes."""
        folder = self._resolved(entry.model["folder"])
        expected = {folder / name: digest for name, digest in entry.model["files"].items()}
        if entry.audit is not None:
            expected[self._resolved(entry.audit.file)] = entry.audit.sha256
        missing = [f"'{path}' is not there" for path in expected if not path.is_file()]
        changed = [
            f"'{path}' was changed" for path, digest in expected.items() if path.is_file() and file_hash(path) != digest
        ]
        added = sorted(set(folder_files(folder, hashed=False)) - set(entry.model["files"])) if folder.is_dir() else []
        return [*missing, *changed, *(f"'{folder / name}' was added" for name in added)]

    def _mark(self, audit: Path, model_hash: str) -> AuditMark:
        """Return where an audit lies, its hash and its verdict; refuse one of another model."""
        path = audit / "audit.json" if audit.is_dir() else audit
        require_file(path, "an audit", field="audit")
        report = load_report(path)
        of = report.request.unlearned_hash
        if of != model_hash:
            raise InputError(f"'{path}' is about another model", got=f"weights {of}", expected=f"weights {model_hash}")
        return AuditMark(file=self._relative(path), sha256=file_hash(path), verdict=report.verdict)

    def _append(self, entries: Sequence[Entry], values: dict[str, Any]) -> Entry:
        """Write the ledger anew with one more entry, whole or not at all."""
        entry = next_entry(entries, values)
        write_text(self.path, "".join(f"{e.line()}\n" for e in (*entries, entry)))
        return entry

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep a second writer away while an entry is added."""
        with only_writer(self.path, wait_s=_LOCK_WAIT_S), disk_may_fill(self.path):
            yield

    def _relative(self, path: Path) -> str:
        """Return a path as seen from the ledger's folder."""
        return Path(os.path.relpath(path.absolute(), self.path.absolute().parent)).as_posix()

    def _resolved(self, text: str) -> Path:
        """Return the path that `_relative` wrote."""
        return Path(os.path.normpath(self.path.absolute().parent / text))


def folder_files(folder: Path, *, hashed: bool = True) -> dict[str, str]:
    """Return every file of a model's folder with its SHA-256 (or none, to save the reading)."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): file_hash(p) if hashed else "" for p in paths}
