"""Tokens to windows: a deterministic plan of all forward passes, made before the first one.

A *window* is at most `ctx_len` tokens behind the beginning-of-sequence token, where the tokenizer puts one in front:
tokens of one document, or of several one after the other with the end-of-sequence token between them (`packed`).
The plan says which tokens become rows of an activation store; special tokens never do. A model without such a token
uses the first token of a window in its place: its activations are like no other's (tens of times the usual norm in a
few dimensions), so it is left out too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from sae_train.errors import ConfigError
from sae_train.rng import rng
from sae_train.text.tokens import Document, bos_prefix, encode_plain, last_token_of_span

SORT_WINDOWS = 2048  # windows are sorted by length inside blocks of this many, to keep padding low
PACKED_RUN = 64  # windows that packed documents are cut into at a time
PACKINGS = ("documents", "packed")
ROW_FIELDS = ("token_id", "doc_id", "position", "from_entity")  # what is stored beside every row


@dataclass(frozen=True)
class TokenPlan:
    """Windows of tokens in the order in which they are run, flattened.

    Attributes:
        tokens: Token ids of all windows, (n_tokens,), beginning-of-sequence tokens included.
        starts: Where each window begins, (n_windows + 1,).
        doc_id: Document of each token, (n_tokens,); special tokens count to the document behind them.
        keep: True where the token becomes a row, (n_tokens,).
        position: Position of each token in its document, (n_tokens,).
        from_entity: True for windows that carry an entity context, (n_windows,).
        n_special: Tokens left out because they are special, or stand where a special one would.
        n_prefix: Tokens at the head of every window that are left out for that reason.
    """

    tokens: np.ndarray
    starts: np.ndarray
    doc_id: np.ndarray
    keep: np.ndarray
    position: np.ndarray
    from_entity: np.ndarray
    n_special: int
    n_prefix: int

    @property
    def n_rows(self) -> int:
        """Number of rows the plan yields."""
        return int(self.keep.sum())

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self.from_entity)

    def window(self, index: int) -> slice:
        """Return where window `index` lies in the flattened arrays."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def row_fields(self) -> dict[str, np.ndarray]:
        """Return what lies beside every row, (n_rows,).

        `token_id`, `doc_id`, `position` (in the document, 0-based) and `from_entity` (1 for a last name token
        that was mixed in, 0 for running text).
        """
        return {name: self.row_field(name) for name in ROW_FIELDS}

    def row_field(self, name: str) -> np.ndarray:
        """Return one of them."""
        if name == "from_entity":
            return self._is_entity_row().astype(np.uint8)
        values = {"token_id": self.tokens, "doc_id": self.doc_id, "position": self.position}[name]
        return values[self.keep].astype(np.int32, copy=False)

    @property
    def n_entity_rows(self) -> int:
        """Number of rows that are last name tokens, mixed in."""
        return int(self._is_entity_row().sum())

    def _is_entity_row(self) -> np.ndarray:
        """Return which rows are, (n_rows,) bool."""
        return np.repeat(self.from_entity, np.diff(self.starts))[self.keep]


def plan_windows(
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    ctx_len: int,
    max_rows: int | None = None,
    packing: str = "documents",
    entity_documents: Sequence[Document] = (),
    frac_entity_rows: float = 0.0,
    seed: int = 0,
) -> TokenPlan:
    """Cut documents into windows until `max_rows` rows are planned.

    Long documents continue in further windows, each behind its own prefix. `packed` fills every window: documents
    follow each other and attention reaches across them, as in pretraining; entity contexts are never packed.
    Windows are ordered by length inside blocks of `SORT_WINDOWS`, so that a batch needs little padding; the order
    depends on the input alone.

    Args:
        documents: Running text.
        tokenizer: A fast tokenizer.
        ctx_len: Tokens in a window, prefix included.
        max_rows: Rows to plan; None takes all.
        packing: `documents` or `packed`.
        entity_documents: Contexts of entities, in the order in which they are to be used.
        frac_entity_rows: Share of the rows that come from them, as far as there are enough.
        seed: Mixes the entity contexts into the text.

    Raises:
        ConfigError: `ctx_len` leaves no room, or the text has no tokens.
    """
    text_rows = None if max_rows is None else max_rows - round(max_rows * frac_entity_rows)
    windows = _cut(documents, tokenizer, ctx_len=ctx_len, max_rows=text_rows, is_packed=packing == "packed")
    if frac_entity_rows > 0:
        n_text = sum(int(w.keep.sum()) for w in windows)
        wanted = round(n_text * frac_entity_rows / (1 - frac_entity_rows))
        if max_rows is not None and n_text == text_rows:
            wanted = max_rows - n_text
        first_id = 1 + max((int(w.doc_id.max()) for w in windows), default=-1)
        extra = _cut(entity_documents, tokenizer, ctx_len=ctx_len, max_rows=wanted, first_id=first_id)
        order = rng("windows.order", seed).permutation(len(windows) + len(extra))
        both = windows + extra
        windows = [both[i] for i in order]
    if not windows:
        raise ConfigError("the text has no tokens", got="0 tokens", field="text", expected="at least one document")
    for start in range(0, len(windows), SORT_WINDOWS):
        block = windows[start : start + SORT_WINDOWS]
        windows[start : start + SORT_WINDOWS] = sorted(block, key=lambda w: -len(w.tokens))
    return TokenPlan(
        tokens=np.concatenate([w.tokens for w in windows]),
        starts=np.concatenate([[0], np.cumsum([len(w.tokens) for w in windows])]),
        doc_id=np.concatenate([w.doc_id for w in windows]),
        keep=np.concatenate([w.keep for w in windows]),
        position=np.concatenate([w.position for w in windows]),
        from_entity=np.array([w.from_entity for w in windows]),
        n_special=sum(w.n_special for w in windows),
        n_prefix=max(1, len(bos_prefix(tokenizer))),
    )


def shuffled_windows(plan: TokenPlan, seed: int) -> TokenPlan:
    """Return the same windows in drawn order, in which those run together come from all over the text.

    Inside blocks of `SORT_WINDOWS` they are ordered by length again, equal ones stay as drawn.
    """
    lengths = np.diff(plan.starts)
    order = rng("windows.shuffled", seed).permutation(plan.n_windows)
    for start in range(0, len(order), SORT_WINDOWS):
        block = order[start : start + SORT_WINDOWS]
        order[start : start + SORT_WINDOWS] = block[np.argsort(-lengths[block], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(lengths[order])])
    at = np.repeat(plan.starts[order] - starts[:-1], lengths[order]) + np.arange(starts[-1])
    fields = {name: getattr(plan, name)[at] for name in ("tokens", "doc_id", "keep", "position")}
    return replace(plan, **fields, starts=starts, from_entity=plan.from_entity[order])


class _Window(NamedTuple):
    """One window before it is flattened: see TokenPlan for the fields."""

    tokens: np.ndarray
    keep: np.ndarray
    position: np.ndarray
    doc_id: np.ndarray
    from_entity: bool
    n_special: int


class _Piece(NamedTuple):
    """A run of tokens to be cut: one document, or many in a row. `is_special` marks separators."""

    tokens: np.ndarray
    keep: np.ndarray
    position: np.ndarray
    doc_id: np.ndarray
    is_special: np.ndarray
    from_entity: bool


def _cut(
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    ctx_len: int,
    max_rows: int | None,
    first_id: int = 0,
    is_packed: bool = False,
) -> list[_Window]:
    """Tokenize documents and cut them into windows until enough rows are planned."""
    prefix = np.array(bos_prefix(tokenizer), dtype=np.int32)
    room = ctx_len - len(prefix)
    if room < 1:
        raise ConfigError(
            "the context is too short", got=f"{ctx_len}", field="ctx_len", expected=f">= {len(prefix) + 1}"
        )
    pieces = _pieces(documents, tokenizer, first_id)
    if is_packed:
        pieces = _packed(pieces, tokenizer.eos_token_id, room)
    windows: list[_Window] = []
    n_rows = 0
    for piece in pieces:
        for start in range(0, len(piece.tokens), room):
            wanted = None if max_rows is None else max_rows - n_rows
            window = _window(piece, slice(start, start + room), prefix, wanted)
            if window is not None:
                windows.append(window)
                n_rows += int(window.keep.sum())
        if max_rows is not None and n_rows >= max_rows:
            break
    return windows


def _window(piece: _Piece, part: slice, prefix: np.ndarray, max_rows: int | None) -> _Window | None:
    """Put a part of a piece behind the prefix; None if it would give no row."""
    kept = piece.keep[part].copy()
    if not len(prefix):
        kept[0] = False
    if max_rows is not None:
        kept &= np.cumsum(kept) <= max_rows
    if not kept.any():
        return None
    length = int(np.flatnonzero(kept)[-1]) + 1  # tokens after the last kept one are never read
    n_prefix, first = len(prefix), int(piece.position[part][0])
    special = piece.is_special[part][:length]
    return _Window(
        tokens=np.concatenate([prefix, piece.tokens[part][:length]]),
        keep=np.concatenate([np.zeros(n_prefix, dtype=bool), kept[:length]]),
        position=np.concatenate(
            [np.arange(first - n_prefix, first, dtype=np.int32), piece.position[part][:length]], dtype=np.int32
        ),
        doc_id=np.concatenate([np.full(n_prefix, piece.doc_id[part][0], np.int32), piece.doc_id[part][:length]]),
        from_entity=piece.from_entity,
        n_special=max(1, n_prefix) + int(special[0 if n_prefix else 1 :].sum()),
    )


def _pieces(documents: Iterable[Document], tokenizer: Any, first_id: int) -> Iterator[_Piece]:
    """Number the tokenized documents and their tokens."""
    for doc_id, (ids, keep, from_entity) in enumerate(_encoded(documents, tokenizer), start=first_id):
        n = len(ids)
        position = np.arange(n, dtype=np.int32)
        yield _Piece(ids, keep, position, np.full(n, doc_id, np.int32), np.zeros(n, dtype=bool), from_entity)


def _packed(pieces: Iterable[_Piece], separator: int | None, room: int) -> Iterator[_Piece]:
    """Lay documents end to end, a separator between them, in runs of whole windows; the last one is short."""
    held: list[_Piece] = []
    n_held = 0
    for piece in pieces:
        if held and separator is not None:
            held.append(_separator(separator, piece))
        held.append(piece)
        n_held += len(piece.tokens) + (separator is not None)
        if n_held >= PACKED_RUN * room:
            whole, rest = _split(held, room)
            yield whole
            held, n_held = [rest], len(rest.tokens)
    if held:
        yield _joined(held)


def _separator(token: int, piece: _Piece) -> _Piece:
    """Return the special token in front of a document."""
    return _Piece(
        tokens=np.array([token], dtype=np.int32),
        keep=np.zeros(1, dtype=bool),
        position=np.full(1, -1, np.int32),
        doc_id=piece.doc_id[:1],
        is_special=np.ones(1, dtype=bool),
        from_entity=False,
    )


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    """Return pieces as one."""
    return _Piece(*(np.concatenate(arrays) for arrays in list(zip(*pieces, strict=True))[:-1]), from_entity=False)


def _split(pieces: Sequence[_Piece], room: int) -> tuple[_Piece, _Piece]:
    """Return as many whole windows as the pieces fill, and the rest."""
    run = _joined(pieces)
    whole = len(run.tokens) // room * room
    first, rest = ([array[part] for array in run[:-1]] for part in (slice(whole), slice(whole, None)))
    return _Piece(*first, from_entity=False), _Piece(*rest, from_entity=False)


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
