"""Text to tokens: documents from files, a hub dataset or a fact world, encoded without special tokens.

Documents come one at a time, so that a text may be larger than memory. Special tokens are never recognised inside a
text; which ones a tokenizer puts in front is asked once (`bos_prefix`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_train.errors import FileFormatError, InputError, MissingFileError
from sae_train.run.runs import require_file
from sae_train.text.worlds import find_world, install_hint, world_names
from sae_train.text_files import ENCODING, json_of, read_lines

_TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet", ".txt.gz", ".jsonl.gz")


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        text: The text itself.
        keep_char_end: None keeps every token as a row. A number keeps only the token that holds the
            character before it: the last token of the span that ends there (an entity's name).
    """

    text: str
    keep_char_end: int | None = None


@dataclass(frozen=True)
class Corpus:
    """Documents with a name, under which what is made of them records them.

    Attributes:
        name: What the text is called.
        documents: The documents; read anew for every pass.
    """

    name: str
    documents: Iterable[Document | str]

    def __iter__(self) -> Iterator[Document]:
        return (d if isinstance(d, Document) else Document(d) for d in self.documents)


Text = str | Path | Corpus | Iterable[Document | str]


def corpus_of(text: Text) -> Corpus:
    """Return a text with a name: a path or a hub dataset under its own, documents at hand under `documents`.

    The first document of a path or dataset is read at once, so that what cannot be read is refused before anything is
    done.

    Raises:
        InputError: As `load_documents`.

    Example:
        >>> corpus = corpus_of(["A quiet street.", "A market."])
        >>> corpus.name, [d.text for d in corpus]
        ('documents', ['A quiet street.', 'A market.'])
    """
    if isinstance(text, Corpus):
        return text
    if isinstance(text, str | Path):
        return Corpus(str(text), _Loaded(str(text)))
    return Corpus("documents", list(text) if isinstance(text, Iterator) else text)


class _Loaded:
    """The documents of a path or dataset, the first one read at once; opened anew for every pass but the first."""

    def __init__(self, source: str) -> None:
        documents = load_documents(source)
        self.source, self._opened = source, itertools.chain(list(itertools.islice(documents, 1)), documents)

    def __iter__(self) -> Iterator[Document]:
        opened, self._opened = self._opened, None
        return load_documents(self.source) if opened is None else opened


def load_documents(source: str) -> Iterator[Document]:
    """Return the documents of a file, a hub dataset or a world, one at a time.

    The first one is read at once, so that a text that cannot be read is refused before anything is done with it.

    Args:
        source: `.txt` (blank lines part the documents), `.jsonl` (field `text`), both also with `.gz` behind,
            `.parquet` (column `text`), the id of a hub dataset, or the name of a world (`fact-world`): its corpus.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: A line is not JSON, has no field `text`, or holds what is not Unicode text.
    """
    documents = _documents(source)
    return itertools.chain(list(itertools.islice(documents, 1)), documents)


def _documents(source: str) -> Iterator[Document]:
    """Tell the sources apart and yield the documents."""
    world = find_world(source)
    if world is not None:
        yield from map(Document, world.documents())
        return
    path = Path(source)
    name = path.name.lower()
    is_format = name.endswith(_TEXT_SUFFIXES)
    if not is_format and not path.exists() and "/" in source and not source.startswith((".", "/")):
        yield from _hub_documents(source)
        return
    hint = install_hint(source)
    if hint and not path.exists():
        raise MissingFileError(f"no text '{source}'", got=source, field="text", expected="a file", try_=hint)
    require_file(path, "text", field="text")
    if name.endswith((".txt", ".txt.gz")):
        yield from _paragraphs(path)
    elif name.endswith((".jsonl", ".jsonl.gz")):
        yield from _json_lines(path)
    elif name.endswith(".parquet"):
        yield from _parquet_documents(path)
    else:
        raise FileFormatError(
            f"cannot read text: '{path}'",
            got=path.suffix or "no suffix",
            field="text",
            expected=", ".join([*_TEXT_SUFFIXES, *world_names()]) + ", or a hub dataset id",
        )


def _paragraphs(path: Path) -> Iterator[Document]:
    """Part a text file at blank lines."""
    held: list[str] = []
    for line in read_lines(path):
        if line.strip():
            held.append(line)
        elif held:
            yield Document("".join(held).strip())
            held = []
    if held:
        yield Document("".join(held).strip())


def _json_lines(path: Path) -> Iterator[Document]:
    """Read the field `text` of every line."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            text = json_of(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(
                f"cannot read line {number} of '{path}'", got=line.strip()[:80], expected='{"text": "…"}'
            ) from error
        yield from _row_documents(text, f"line {number} of '{path}'")


def _row_documents(value: Any, where: str) -> Iterator[Document]:
    """Yield the document that a row holds, none where its text is blank; bytes are read as UTF-8.

    Raises:
        FileFormatError: The value is no text: a number, a list, a record.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode(ENCODING)
        except UnicodeDecodeError as error:
            raise FileFormatError(f"{where} is not Unicode text", got=str(error), expected="UTF-8 text") from error
    if not isinstance(value, str):
        raise FileFormatError(f"{where} has no text", got=type(value).__name__, expected="str")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise FileFormatError(f"{where} is not Unicode text", got="half of a surrogate pair", expected="UTF-8 text")
    if value.strip():
        yield Document(value)


def _parquet_documents(path: Path) -> Iterator[Document]:
    """Read the column `text`: texts, or bytes that are UTF-8; a missing value is no document."""
    import pyarrow.lib
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            if file.schema_arrow.names.count("text") != 1:
                raise FileFormatError(
                    f"no column 'text' in '{path}', or two", got=", ".join(file.schema_arrow.names), expected="text"
                )
            cells = (cell for batch in file.iter_batches(columns=["text"]) for cell in batch["text"])
            for number, cell in enumerate(cells, start=1):
                if cell.is_valid:
                    yield from _row_documents(_cell_value(cell), f"row {number} of '{path}'")
    except (pyarrow.lib.ArrowException, OSError) as error:  # the second where the file's foot is damaged
        raise FileFormatError(f"cannot read '{path}'", got=str(error)[:120], expected="a parquet file") from error


def _cell_value(cell: Any) -> Any:
    """Return a cell of a parquet column; text that is not UTF-8 comes as its bytes."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes()


def _hub_documents(name: str) -> Iterator[Document]:
    """Read the column `text` of a hub dataset; a missing value is no document."""
    for number, row in enumerate(hub_rows(name, field="text"), start=1):
        if "text" not in row:
            raise FileFormatError(f"no column 'text' in '{name}'", got=", ".join(row), field="text", expected="text")
        if row["text"] is not None:
            yield from _row_documents(row["text"], f"row {number} of '{name}'")


def hub_rows(name: str, *, field: str) -> Iterator[dict[str, Any]]:
    """Stream the rows of a hub dataset's train split; the only place that reads one.

    Args:
        name: The dataset's id.
        field: The parameter that named it, for the message.

    Raises:
        InputError: It cannot be opened.
    """
    import datasets

    try:
        stream = datasets.load_dataset(name, split="train", streaming=True)
    except Exception as error:  # noqa: BLE001  the library raises a dozen unrelated types here
        raise InputError(
            f"cannot open the dataset '{name}'",
            got=f"{type(error).__name__}: {str(error)[:160]}",
            field=field,
            expected="a file, or a hub dataset id with a train split",
        ) from error
    yield from (dict(row) for row in stream)


def bos_prefix(tokenizer: Any) -> list[int]:
    """Return the special tokens that the tokenizer itself puts in front of a text; often none."""
    special = set(tokenizer.all_special_ids)
    with_prefix: list[int] = tokenizer("a")["input_ids"]
    return list(itertools.takewhile(lambda token: token in special, with_prefix))


def encode_plain(tokenizer: Any, texts: list[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Tokenize plain text: no special tokens are added, and none are recognised inside the text.

    Returns:
        Token ids, and for every token the span of characters it stands for.
    """
    out = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    return out["input_ids"], out["offset_mapping"]


def last_token_of_span(offsets: list[tuple[int, int]], char_end: int) -> int:
    """Return the index of the token that holds the character before `char_end`.

    Example:
        >>> last_token_of_span([(0, 3), (3, 8), (8, 9)], 8)
        1
    """
    for index in range(len(offsets) - 1, -1, -1):
        start, end = offsets[index]
        if start < char_end and end > start:
            return index
    raise AssertionError(f"no token before character {char_end} in {offsets}")


def first_token_of_span(offsets: list[tuple[int, int]], char_start: int) -> int:
    """Return the index of the token that holds the character at `char_start`.

    A token may begin before it, with the space in front of a word.

    Example:
        >>> first_token_of_span([(0, 3), (3, 8), (8, 9)], 4)
        1
    """
    for index, (_, end) in enumerate(offsets):
        if end > char_start:
            return index
    raise AssertionError(f"no token at character {char_start} in {offsets}")
