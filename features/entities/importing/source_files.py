"""Files of other benchmarks as rows with a place each: JSON, JSON lines, tables, parquet, folders and tar archives."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.entities.entity_rows import Row, json_rows, table_rows
from features.entities.named_inputs import is_hub_id
from sae_train.errors import FileFormatError, InputError
from sae_train.run.runs import require_file
from sae_train.text.tokens import hub_rows
from sae_train.text_files import json_of

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
A_ROW = '{"…": "…"}'
ARCHIVES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class SourceFile:
    """A file and its rows.

    Attributes:
        name: Without its folder and `.gz`.
        rows: In their order.
    """

    name: str
    rows: tuple[Row, ...]

    @property
    def is_forget(self) -> bool:
        """Tell whether the name of the file says that it holds what is to be forgotten."""
        return "forget" in self.name.lower()


def read_source(source: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> list[SourceFile]:
    """Read every wanted file of a source, in the order of their names.

    Args:
        source: A file, a folder or a tar archive of files, or the id of a hub dataset.
        wanted: Tells by its name which file of a folder or an archive is read.

    Raises:
        MissingFileError: There is nothing of that name.
        FileFormatError: A file cannot be read (its line is named), or none of them is wanted.
    """
    if isinstance(source, str) and is_hub_id(source):
        rows = enumerate(hub_rows(source, field="source"), start=1)
        return [SourceFile(source, tuple(Row(f"row {i} of '{source}'", row) for i, row in rows))]
    path = Path(source)
    if not path.is_dir():
        require_file(path, "entities of another format", field="source")
    found = [
        SourceFile(name, tuple(_rows(name, data, where)))
        for name, data, where in _contents(path)
        if path.is_file() and not path.name.lower().endswith(ARCHIVES) or wanted(name)
    ]
    if not any(file.rows for file in found):
        raise FileFormatError(
            f"no rows in '{path}'", got=", ".join(f.name for f in found) or "no file of this format", field="source",
            expected=f"one of {', '.join(SUFFIXES)}, each also as .gz, or a folder or tar archive of them",
        )  # fmt: skip
    return found


def first_row(path: Path) -> Any:
    """Return the first row of a source; None where nothing can be read, which then is no file of another format."""
    try:
        return next((row.raw for name, data, where in _contents(path) for row in _rows(name, data, where)), None)
    except InputError:
        return None


def _contents(path: Path) -> Iterator[tuple[str, Callable[[], bytes], str]]:
    """Yield name, content and place of every file."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if child.is_file() and _plain_name(child.name).endswith(SUFFIXES):
                yield _plain_name(child.name), child.read_bytes, str(child)
    elif path.name.lower().endswith(ARCHIVES):
        try:
            with tarfile.open(path) as archive:
                for member in sorted(archive.getmembers(), key=lambda m: m.name):
                    stream = archive.extractfile(member) if member.isfile() else None
                    if stream is not None and _plain_name(member.name).endswith(SUFFIXES):
                        yield _plain_name(Path(member.name).name), stream.read, f"{path}/{member.name}"
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="a tar archive") from error
    else:
        yield _plain_name(path.name), path.read_bytes, str(path)


def _plain_name(name: str) -> str:
    """Return a file's name in small letters, without `.gz`."""
    return name.lower().removesuffix(".gz")


def _rows(name: str, read: Callable[[], bytes], where: str) -> Iterator[Row]:
    """Parse one file by its name."""
    data = read()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise FileFormatError(f"cannot read '{where}'", got=str(error), expected="gzip") from error
    if name.endswith(".parquet"):
        yield from _parquet(data, where)
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"cannot read '{where}'", got=str(error), expected="UTF-8 text") from error
    if name.endswith((".csv", ".tsv")):
        delimiter = "\t" if name.endswith(".tsv") else ","
        yield from table_rows(io.StringIO(text, newline=""), where, delimiter=delimiter)
    elif name.endswith(".jsonl"):
        yield from json_rows(text.split("\n"), where, expected=A_ROW)
    else:
        yield from _json(text, where)


def _json(text: str, where: str) -> Iterator[Row]:
    """Read a list of rows, one object, or, as some benchmarks call their JSON lines `.json`, an object a line."""
    try:
        value: Any = json_of(text)
    except ValueError as error:
        if getattr(error, "msg", "") == "Extra data":
            yield from json_rows(text.split("\n"), where, expected=A_ROW)
            return
        raise FileFormatError(f"'{where}' is not JSON", got=str(error)[:160], expected="a list of objects") from error
    rows = value if isinstance(value, list) else [value]
    yield from (Row(f"row {i} of '{where}'", row) for i, row in enumerate(rows, start=1))


def _parquet(data: bytes, where: str) -> Iterator[Row]:
    """Read all columns."""
    import pyarrow.lib
    import pyarrow.parquet as parquet

    try:
        rows = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise FileFormatError(f"cannot read '{where}'", got=str(error)[:120], expected="a parquet file") from error
    yield from (Row(f"row {i} of '{where}'", row) for i, row in enumerate(rows, start=1))
