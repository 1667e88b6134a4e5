"""Tokens to windows: a deterministic plan of all forward passes, made before the first one.

A *window* is at most `ctx_len` tokens behind the beginning-of-sequence token, where the tokenizer puts one in front:
tokens of one document, or of several one after the other with the end-of-sequence token between them (`packed`).
The plan says which tokens become rows of an activation store; special tokens never do. A model without such a token
uses the first token of a window in its place: its activations are like no other's (tens of times the usual norm in a
few dimensions), so it is left out too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sae_train.errors import ConfigError
from sae_train.rng import rng
from sae_train.text.token_plan import PlanWriter, TokenPlan, Window
from sae_train.text.tokens import Document, bos_prefix, encode_plain, last_token_of_span

SORT_WINDOWS = 2048  # windows are sorted by length inside blocks of this many, to keep padding low
PACKED_RUN = 64  # windows that packed documents are cut into at a time
PACKINGS = ("documents", "packed")


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
    folder: Path | None = None,
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
        folder: Where the plan lies on disk, 13 bytes a token, until it is no longer used; None keeps it in memory.

    Raises:
        ConfigError: `ctx_len` leaves no room, or the text has no tokens.
    """
    text_rows = None if max_rows is None else max_rows - round(max_rows * frac_entity_rows)
    n_prefix = max(1, len(bos_prefix(tokenizer)))
    windows = _cut(documents, tokenizer, ctx_len=ctx_len, max_rows=text_rows, is_packed=packing == "packed")
    writer = PlanWriter(folder)
    for block in _blocks(windows):
        writer.add(block if frac_entity_rows > 0 else sorted(block, key=lambda w: -len(w.tokens)))
    if frac_entity_rows > 0:
        n_text = writer.n_rows
        wanted = round(n_text * frac_entity_rows / (1 - frac_entity_rows))
        if max_rows is not None and n_text == text_rows:
            wanted = max_rows - n_text
        first_id = writer.next_doc_id
        for block in _blocks(_cut(entity_documents, tokenizer, ctx_len=ctx_len, max_rows=wanted, first_id=first_id)):
            writer.add(block)
    if not writer.n_windows:
        raise ConfigError("the text has no tokens", got="0 tokens", field="text", expected="at least one document")
    plan = writer.plan(n_special=writer.n_special, n_prefix=n_prefix)
    if frac_entity_rows > 0:
        return _in_order(plan, rng("windows.order", seed).permutation(plan.n_windows), folder)
    return plan


def shuffled_windows(plan: TokenPlan, seed: int, folder: Path | None = None) -> TokenPlan:
    """Return the same windows in drawn order, in which those run together come from all over the text.

    Inside blocks of `SORT_WINDOWS` they are ordered by length again, equal ones stay as drawn.

    Args:
        plan: The windows.
        seed: Of the order.
        folder: As for `plan_windows`.
    """
    return _in_order(plan, rng("windows.shuffled", seed).permutation(plan.n_windows), folder)


def _in_order(plan: TokenPlan, order: np.ndarray, folder: Path | None) -> TokenPlan:
    """Return the windows of a plan in another order, by length inside blocks."""
    writer = PlanWriter(folder)
    for start in range(0, len(order), SORT_WINDOWS):
        writer.add_from(plan, order[start : start + SORT_WINDOWS])
    return writer.plan(n_special=plan.n_special, n_prefix=plan.n_prefix)


def _blocks(windows: Iterator[Window]) -> Iterator[list[Window]]:
    """Yield windows, `SORT_WINDOWS` at a time."""
    while block := list(islice(windows, SORT_WINDOWS)):
        yield block


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
) -> Iterator[Window]:
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
    n_rows = 0
    for piece in pieces:
        for start in range(0, len(piece.tokens), room):
            wanted = None if max_rows is None else max_rows - n_rows
            window = _window(piece, slice(start, start + room), prefix, wanted)
            if window is not None:
                n_rows += int(window.keep.sum())
                yield window
        if max_rows is not None and n_rows >= max_rows:
            break


def _window(piece: _Piece, part: slice, prefix: np.ndarray, max_rows: int | None) -> Window | None:
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
    return Window(
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
