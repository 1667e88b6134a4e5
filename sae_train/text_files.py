r"""Open text files: UTF-8 with or without a byte-order mark, whose lines end at a line feed and nowhere else.

U+2028, U+2029 and U+0085 stand inside names and answers, so they end no line, whatever `str.splitlines` thinks of
them. A carriage return before the line feed, as other systems write it, belongs to the line's end.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_train.errors import FileFormatError

ENCODING = "utf-8-sig"  # reads with and without the mark
LONGEST_NUMBER = 300  # digits; a float ends at 309
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON writes half of a surrogate pair


def read_text(path: Path, *, field: str | None = None) -> str:
    """Return the text of a file, without a byte-order mark.

    Args:
        path: The file.
        field: The parameter that named it, for the message.

    Raises:
        FileFormatError: The bytes are not UTF-8.
    """
    try:
        return path.read_bytes().decode(ENCODING)
    except UnicodeDecodeError as error:
        raise _not_text(path, error, field) from error


def read_lines(path: Path) -> Iterator[str]:
    r"""Yield the lines of a file, gzip or plain, one at a time, each with its `\n`.

    Raises:
        FileFormatError: The bytes are not UTF-8, or not gzip.
    """
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            # Line ends are looked for in bytes: a text stream would read a `\r` as one.
            with io.TextIOWrapper(stream, encoding=ENCODING, newline="\n") as lines:
                for line in lines:
                    yield _plain_end(line)
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _not_text(path, error) from error


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text, without their ends.

    Example:
        >>> lines_of("one\r\ntwo\u2028still two\n")
        ['one', 'two\u2028still two']
    """
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def json_of(text: str | bytes) -> Any:
    """Return what a JSON text holds; the only reader of JSON that somebody else may have written.

    Raises:
        ValueError: It is not JSON, nests too deep, has a number too long to read, gives a key twice (readers differ in
            which of the values they take), or a text in it is no Unicode text: half of a surrogate pair, which no file
            and no tokenizer takes.

    Example:
        >>> json_of('{"name": "Osk"}')
        {'name': 'Osk'}
    """
    try:
        found = json.loads(text, parse_int=_whole, object_pairs_hook=_with_every_key_once)
        if _HALF.search(text if isinstance(text, str) else text.decode()):
            json.dumps(found, ensure_ascii=False).encode()  # refuses half a pair, wherever it is
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return found


def _with_every_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object that some pairs make."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"a key given twice: {next(k for k in keys if keys.count(k) > 1)!r}")
    return found


def _whole(digits: str) -> int:
    """Read a whole number, as long as it is none that no float holds."""
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def read_json(path: Path, *, expected: str = "JSON") -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        expected: What it should be, for the message.

    Raises:
        FileFormatError: It is not JSON, or not text.
    """
    try:
        return json_of(read_text(path))
    except ValueError as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error)[:160], expected=expected) from error


def read_toml(path: Path, *, what: str, expected: str = "TOML") -> dict[str, Any]:
    """Return the table in a TOML file.

    Args:
        path: The file.
        what: What it is, as a message calls it: "the policy".
        expected: What it should be, for the message.

    Raises:
        FileFormatError: It is not TOML, or not text.
    """
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # tomllib's own error, a number too long, lists nested too deep
        raise FileFormatError(f"cannot read {what} '{path}'", got=str(error)[:160], expected=expected) from error


def _plain_end(line: str) -> str:
    return f"{line[:-2]}\n" if line.endswith("\r\n") else line


def _not_text(path: Path, error: Exception, field: str | None = None) -> FileFormatError:
    """Return the error about a file that is not text."""
    return FileFormatError(f"cannot read text: '{path}'", got=str(error), field=field, expected="UTF-8 text")
