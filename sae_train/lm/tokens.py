"""Text to token windows: documents in, one deterministic plan of windows out, before any forward pass.

A *window* is at most `ctx_len` tokens of one document behind the beginning-of-sequence token, where the
tokenizer puts one in front. The plan says which tokens become rows of an activation store; special tokens never do.
A model without such a token uses the first token of a window in its place: its activations are like no other's (tens
of times the usual norm in a few dimensions), so it is left out too.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sae_train.errors import ConfigError, FileFormatError, InputError
from sae_train.runs import require_file

SORT_WINDOWS = 2048  # windows are sorted by length inside blocks of this many, to keep padding low
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


def load_documents(source: str) -> Iterator[Document]:
    """Yield the documents of `.txt` (blank lines part them), `.jsonl` (field `text`), `.parquet` or a hub dataset.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: A line is not JSON, has no field `text`, or holds what is not Unicode text.
    """
    path = Path(source)
    name = path.name.lower()
    if not name.endswith(_TEXT_SUFFIXES) and not path.exists() and "/" in source and not source.startswith((".", "/")):
        yield from _hub_documents(source)
        return
    require_file(path, "text", option="--text")
    if name.endswith((".txt", ".txt.gz")):
        yield from _paragraphs(path)
    elif name.endswith((".jsonl", ".jsonl.gz")):
        yield from _json_lines(path)
    elif name.endswith(".parquet"):
        yield from _parquet_documents(path)
    else:
        raise FileFormatError(
            f"cannot read text: '{path}'",
            got=f"{path.suffix or 'no suffix'} (--text)",
            expected=", ".join(_TEXT_SUFFIXES) + ", or a hub dataset id",
        )


def open_text(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, gzip or plain.

    Raises:
        FileFormatError: The bytes are not UTF-8 text, or not gzip.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            yield from stream
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise FileFormatError(f"cannot read text: '{path}'", got=str(error), expected="UTF-8 text") from error


def _paragraphs(path: Path) -> Iterator[Document]:
    """Part a text file at blank lines."""
    held: list[str] = []
    for line in open_text(path):
        if line.strip():
            held.append(line)
        elif held:
            yield Document("".join(held).strip())
            held = []
    if held:
        yield Document("".join(held).strip())


def _json_lines(path: Path) -> Iterator[Document]:
    """Read the field `text` of every line."""
    for number, line in enumerate(open_text(path), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise FileFormatError(
                f"cannot read line {number} of '{path}'", got=line.strip()[:80], expected='{"text": "…"}'
            ) from error
        if not isinstance(text, str):
            raise FileFormatError(f"line {number} of '{path}' has no text", got=type(text).__name__, expected="str")
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise FileFormatError(
                f"line {number} of '{path}' is not Unicode text", got="half of a surrogate pair", expected="UTF-8 text"
            )
        if text.strip():
            yield Document(text)


def _parquet_documents(path: Path) -> Iterator[Document]:
    """Read the column `text`."""
    import pyarrow.lib
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise FileFormatError(
                    f"no column 'text' in '{path}'", got=", ".join(file.schema_arrow.names), expected="text"
                )
            for batch in file.iter_batches(columns=["text"]):
                yield from (Document(str(t)) for t in batch["text"].to_pylist() if t and str(t).strip())
    except pyarrow.lib.ArrowInvalid as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error)[:120], expected="a parquet file") from error


def _hub_documents(name: str) -> Iterator[Document]:
    """Stream the train split of a hub dataset; the only place that reads one."""
    import datasets

    try:
        stream = datasets.load_dataset(name, split="train", streaming=True)
    except Exception as error:  # noqa: BLE001  the library raises a dozen unrelated types here
        raise InputError(
            f"cannot open the dataset '{name}'",
            got=f"{type(error).__name__}: {str(error)[:160]}",
            expected="a file (" + ", ".join(_TEXT_SUFFIXES) + ") or a hub dataset id with a train split",
        ) from error
    for row in stream:
        text = dict(row).get("text")
        if isinstance(text, str) and text.strip():
            yield Document(text)


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


@dataclass(frozen=True)
class TokenPlan:
    """Windows of tokens in the order in which they are run, flattened.

    Attributes:
        tokens: Token ids of all windows, (n_tokens,), beginning-of-sequence tokens included.
        starts: Where each window begins, (n_windows + 1,).
        doc_id: Document of each window, (n_windows,).
        keep: True where the token becomes a row, (n_tokens,).
        position: Position of each token in its document, (n_tokens,).
        from_entity: True for windows that carry an entity context, (n_windows,).
        n_special: Tokens left out because they are special, or stand where a special one would.
    """

    tokens: np.ndarray
    starts: np.ndarray
    doc_id: np.ndarray
    keep: np.ndarray
    position: np.ndarray
    from_entity: np.ndarray
    n_special: int

    @property
    def n_rows(self) -> int:
        """Number of rows the plan yields."""
        return int(self.keep.sum())

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self.doc_id)

    def window(self, index: int) -> slice:
        """Return where window `index` lies in the flattened arrays."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def row_fields(self) -> dict[str, np.ndarray]:
        """Return what lies beside every row, (n_rows,).

        `token_id`, `doc_id`, `position` (in the document, 0-based) and `from_entity` (1 for a last name token
        that was mixed in, 0 for running text).
        """
        lengths = np.diff(self.starts)
        return {
            "token_id": self.tokens[self.keep].astype(np.int32),
            "doc_id": np.repeat(self.doc_id, lengths)[self.keep].astype(np.int32),
            "position": self.position[self.keep].astype(np.int32),
            "from_entity": np.repeat(self.from_entity, lengths)[self.keep].astype(np.uint8),
        }


def plan_windows(
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    ctx_len: int,
    max_rows: int | None = None,
    entity_documents: Sequence[Document] = (),
    entity_share: float = 0.0,
    seed: int = 0,
) -> TokenPlan:
    """Cut documents into windows until `max_rows` rows are planned.

    Long documents continue in further windows, each behind its own prefix. Windows are ordered by length
    inside blocks of `SORT_WINDOWS`, so that a batch needs little padding; the order depends on the input alone.

    Args:
        documents: Running text.
        tokenizer: A fast tokenizer.
        ctx_len: Tokens in a window, prefix included.
        max_rows: Rows to plan; None takes all.
        entity_documents: Contexts of entities, in the order in which they are to be used.
        entity_share: Share of the rows that come from them, as far as there are enough.
        seed: Mixes the entity contexts into the text.

    Raises:
        ConfigError: `ctx_len` leaves no room, or the text has no tokens.
    """
    text_rows = None if max_rows is None else max_rows - round(max_rows * entity_share)
    windows = _cut(documents, tokenizer, ctx_len=ctx_len, max_rows=text_rows)
    if entity_share > 0:
        n_text = sum(int(w.keep.sum()) for w in windows)
        wanted = round(n_text * entity_share / (1 - entity_share))
        if max_rows is not None and n_text == text_rows:
            wanted = max_rows - n_text
        first_id = 1 + max((w.doc_id for w in windows), default=-1)
        extra = _cut(entity_documents, tokenizer, ctx_len=ctx_len, max_rows=wanted, first_id=first_id)
        order = np.random.default_rng([0x31C, seed]).permutation(len(windows) + len(extra))
        both = windows + extra
        windows = [both[i] for i in order]
    if not windows:
        raise ConfigError("the text has no tokens", got="0 tokens (--text)", expected="at least one document")
    for start in range(0, len(windows), SORT_WINDOWS):
        block = windows[start : start + SORT_WINDOWS]
        windows[start : start + SORT_WINDOWS] = sorted(block, key=lambda w: -len(w.tokens))
    return TokenPlan(
        tokens=np.concatenate([w.tokens for w in windows]),
        starts=np.concatenate([[0], np.cumsum([len(w.tokens) for w in windows])]),
        doc_id=np.array([w.doc_id for w in windows], dtype=np.int32),
        keep=np.concatenate([w.keep for w in windows]),
        position=np.concatenate([w.position for w in windows]),
        from_entity=np.array([w.from_entity for w in windows]),
        n_special=len(windows) * max(1, len(bos_prefix(tokenizer))),
    )


class _Window(NamedTuple):
    """One window before it is flattened: see TokenPlan for the fields."""

    tokens: np.ndarray
    keep: np.ndarray
    position: np.ndarray
    doc_id: int
    from_entity: bool


def _cut(
    documents: Iterable[Document], tokenizer: Any, *, ctx_len: int, max_rows: int | None, first_id: int = 0
) -> list[_Window]:
    """Tokenize documents and cut them into windows until enough rows are planned."""
    prefix = bos_prefix(tokenizer)
    if ctx_len < len(prefix) + 1:
        raise ConfigError("the context is too short", got=f"{ctx_len} (--ctx-len)", expected=f">= {len(prefix) + 1}")
    windows: list[_Window] = []
    n_rows = 0
    for doc_id, (ids, keep, from_entity) in enumerate(_encoded(documents, tokenizer), start=first_id):
        for start in range(0, len(ids), ctx_len - len(prefix)):
            part = slice(start, start + ctx_len - len(prefix))
            kept = keep[part].copy()
            if not prefix:
                kept[0] = False
            if max_rows is not None:
                kept = kept & (np.cumsum(kept) <= max_rows - n_rows)
            if not kept.any():
                continue
            length = int(np.flatnonzero(kept)[-1]) + 1  # tokens after the last kept one are never read
            tokens = np.concatenate([np.array(prefix, dtype=np.int32), ids[part][:length]])
            positions = np.arange(start - len(prefix), start + length, dtype=np.int32)
            full_keep = np.concatenate([np.zeros(len(prefix), dtype=bool), kept[:length]])
            windows.append(_Window(tokens, full_keep, positions, doc_id, from_entity))
            n_rows += int(kept.sum())
        if max_rows is not None and n_rows >= max_rows:
            break
    return windows


def _encoded(documents: Iterable[Document], tokenizer: Any) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Tokenize in blocks; yield ids, the rows to keep, and whether it is an entity context."""
    block: list[Document] = []

    def flush() -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        ids, offsets = encode_plain(tokenizer, [d.text for d in block])
        for document, tokens, spans in zip(block, ids, offsets, strict=True):
            keep = np.ones(len(tokens), dtype=bool)
            if document.keep_char_end is not None:
                keep[:] = False
                keep[last_token_of_span(spans, document.keep_char_end)] = True
            yield np.array(tokens, dtype=np.int32), keep, document.keep_char_end is not None

    for document in documents:
        block.append(document)
        if len(block) == 256:
            yield from flush()
            block = []
    if block:
        yield from flush()
