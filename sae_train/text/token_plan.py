"""The plan of all forward passes: windows of tokens one behind the other, in memory or in files without a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sae_train.storage.arrays import ArrayWriter, Column, blocks_of

ROW_FIELDS = ("token_id", "doc_id", "position", "from_entity")  # what is stored beside every row
BLOCK_WINDOWS = 1024  # whose rows are made at a time
ROW_KINDS = {name: np.dtype(np.uint8 if name == "from_entity" else np.int32) for name in ROW_FIELDS}


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
        rows_before: Rows of the windows before each window, (n_windows + 1,).
        n_special: Tokens left out because they are special, or stand where a special one would.
        n_prefix: Tokens at the head of every window that are left out for that reason.
    """

    tokens: Column
    starts: Column
    doc_id: Column
    keep: Column
    position: Column
    from_entity: Column
    rows_before: Column
    n_special: int
    n_prefix: int

    @property
    def n_rows(self) -> int:
        """Number of rows the plan yields."""
        return int(self.rows_before[-1])

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
        return np.concatenate([np.empty(0, ROW_KINDS[name]), *self.row_blocks(name)])

    def row_blocks(self, name: str) -> Iterator[np.ndarray]:
        """Yield one of them in parts; one part is in memory at a time."""
        kind = ROW_KINDS[name]
        if name == "from_entity":
            for part in blocks_of(self.n_windows, BLOCK_WINDOWS):
                yield np.repeat(self.from_entity[part], self._rows_of(part)).astype(kind)
            return
        values = {"token_id": self.tokens, "doc_id": self.doc_id, "position": self.position}[name]
        for part in blocks_of(len(self.tokens)):
            yield values[part][self.keep[part]].astype(kind, copy=False)

    @property
    def n_entity_rows(self) -> int:
        """Number of rows that are last name tokens, mixed in."""
        return sum(int(self._rows_of(part)[self.from_entity[part]].sum()) for part in blocks_of(self.n_windows))

    def _rows_of(self, windows: slice) -> np.ndarray:
        """Return the number of rows of some consecutive windows."""
        return np.diff(self.rows_before[windows.start : windows.stop + 1])


class Window(NamedTuple):
    """One window before it is laid behind others: see TokenPlan for the fields."""

    tokens: np.ndarray
    keep: np.ndarray
    position: np.ndarray
    doc_id: np.ndarray
    from_entity: bool
    n_special: int


class PlanWriter:
    """Takes windows in the order in which they are run.

    Args:
        folder: Where the plan's files lie, which have no names; None keeps the plan in memory.

    Attributes:
        n_windows, n_rows, n_special: Of the windows taken so far.
        next_doc_id: One behind the largest document number so far.
    """

    def __init__(self, folder: Path | None) -> None:
        kinds = {"tokens": np.int32, "keep": np.bool_, "position": np.int32, "doc_id": np.int32}
        self._by_token = {name: ArrayWriter(kind, folder) for name, kind in kinds.items()}
        self._from_entity = ArrayWriter(np.bool_, folder)
        self._starts, self._rows_before = (ArrayWriter(np.int64, folder) for _ in range(2))
        for edges in (self._starts, self._rows_before):
            edges.add(np.zeros(1, np.int64))
        self.n_windows = self.n_rows = self.n_special = self.next_doc_id = 0

    def add(self, windows: Sequence[Window]) -> None:
        """Take some windows."""
        if not windows:
            return
        fields = {name: np.concatenate([getattr(w, name) for w in windows]) for name in self._by_token}
        self._add(fields, np.array([len(w.tokens) for w in windows]), np.array([w.from_entity for w in windows]))
        self.n_special += sum(w.n_special for w in windows)
        self.next_doc_id = max(self.next_doc_id, 1 + int(fields["doc_id"].max()))

    def add_from(self, plan: TokenPlan, windows: np.ndarray) -> None:
        """Take windows of a plan, by number, the longest first; equal ones stay in order."""
        edges = [plan.window(int(w)) for w in windows]
        lengths = np.array([part.stop - part.start for part in edges])
        order = np.argsort(-lengths, kind="stable")
        parts = [edges[i] for i in order]
        fields = {name: np.concatenate([getattr(plan, name)[part] for part in parts]) for name in self._by_token}
        self._add(fields, lengths[order], np.array([plan.from_entity[int(w)] for w in windows[order]]))

    def _add(self, fields: dict[str, np.ndarray], lengths: np.ndarray, from_entity: np.ndarray) -> None:
        """Take windows laid end to end."""
        ends = np.cumsum(lengths)
        rows = np.add.reduceat(fields["keep"], ends - lengths, dtype=np.int64)
        self._starts.add(self._by_token["tokens"].n + ends)
        self._rows_before.add(self.n_rows + np.cumsum(rows))
        self._from_entity.add(from_entity)
        for name, values in fields.items():
            self._by_token[name].add(values)
        self.n_windows += len(lengths)
        self.n_rows += int(rows.sum())

    def plan(self, *, n_special: int, n_prefix: int) -> TokenPlan:
        """Return the plan of all windows taken."""
        return TokenPlan(
            **{name: values.array() for name, values in self._by_token.items()},
            starts=self._starts.array(),
            from_entity=self._from_entity.array(),
            rows_before=self._rows_before.array(),
            n_special=n_special,
            n_prefix=n_prefix,
        )
