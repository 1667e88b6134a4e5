"""Answers saved while labelling runs (OUT.partial), so that an interrupted run can be resumed.

JSON lines: the first one is the header (model, templates, settings), every other one an entity with its answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.entities.entities import Entity, entity_line, parse_entity, save_entities
from features.entities.entity_rows import json_rows
from sae_train.errors import FileFormatError
from sae_train.run.resuming import check_unchanged
from sae_train.run.runs import jsonable, partial_path, write_text
from sae_train.text_files import json_of, lines_of


class AnswerLog:
    """The answers given so far.

    Args:
        out: The label file that is being made.
        job: What decides the answers: model, templates, entities, sampling.
        resume: Take over what an earlier run with the same job left; otherwise begin anew.
        older: Values of `job` as an older version of the program wrote them, which will do as well.

    Raises:
        ConfigError: What is there belongs to another job.
        FileFormatError: What is there is no record of answers.
    """

    def __init__(
        self, out: Path, job: Mapping[str, Any], *, resume: bool, older: Mapping[str, Any] | None = None
    ) -> None:
        self.out, self.path, self.older = out, partial_path(out), older or {}
        self.kept: dict[str, Entity] = {}
        head = json.dumps({"job": jsonable(job)}, ensure_ascii=False)
        if resume and self.path.exists():
            self._read(json.loads(head)["job"])
        else:
            write_text(self.path, head + "\n")  # whole or not at all: half a line could not be continued
        self._stream = self.path.open("a", encoding="utf-8", newline="\n")

    def __enter__(self) -> AnswerLog:
        """Return the log."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the file; it stays where it is, if there is an answer in it."""
        self._stream.close()
        if not self.kept:
            self.path.unlink(missing_ok=True)

    def add(self, entities: Sequence[Entity]) -> None:
        """Keep a block of answers, on the disk when this returns."""
        self._stream.writelines(entity_line(e) + "\n" for e in entities)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.kept.update((e.key, e) for e in entities)

    def finish(self, labelled: Sequence[Entity]) -> None:
        """Write the label file, whole or not at all, and remove the log."""
        self._stream.close()
        whole = self.out.with_name(self.out.name + ".whole")  # the log stays until its successor is there
        save_entities(labelled, whole)
        os.replace(whole, self.out)
        self.path.unlink()

    def _read(self, job: Mapping[str, Any]) -> None:
        """Take over whole lines; a last one that was cut off is dropped."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = lines_of(whole.decode("utf-8"))
            theirs = dict(json_of(lines[0])["job"])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"'{self.path}' is no record of answers", got=str(whole[:60]), expected='{"job": …}'
            ) from error
        now = {**dict.fromkeys(theirs), **job}
        check_unchanged(self.path, theirs, now | {k: v for k, v in self.older.items() if theirs.get(k) == v})
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        for row in json_rows(["", *lines[1:]], self.path):  # the numbers of the file's own lines
            entity = parse_entity(row.raw, row.where)
            self.kept[entity.key] = entity
