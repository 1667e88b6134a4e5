"""Passages: runs of consecutive tokens of one document among the rows of a store, and batches of whole passages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError

PASSAGE_TOKENS = 128  # longer runs are cut: the strongest examples of a latent come from different passages


class PassageBatch(NamedTuple):
    """Whole passages.

    Attributes:
        acts: Activations of their tokens.
        row: Row of each in the store, ascending.
        passage: Number of the passage that each belongs to, ascending.
    """

    acts: Float[Tensor, "token d_in"]
    row: Int[np.ndarray, " token"]
    passage: Int[np.ndarray, " token"]


@dataclass(frozen=True)
class Passages:
    """The running text of a store. Entity contexts that were mixed in are left out: each is a single token.

    Attributes:
        start, stop: Rows of each passage, (n_passages,), ascending.
        token_id, doc_id, position: Fields of the rows that are read, (n_rows,).
    """

    start: Int[np.ndarray, " passage"]
    stop: Int[np.ndarray, " passage"]
    token_id: Int[np.ndarray, " row"]
    doc_id: Int[np.ndarray, " row"]
    position: Int[np.ndarray, " row"]

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens in all passages."""
        return int((self.stop - self.start).sum())

    def rows(self) -> Int[np.ndarray, " token"]:
        """Return the rows of all passages, ascending."""
        return np.concatenate([np.arange(a, b) for a, b in zip(self.start, self.stop, strict=True)])

    def window(
        self, row: Int[np.ndarray, "*n"], n_before: int, n_after: int
    ) -> tuple[Int[np.ndarray, "*n"], Int[np.ndarray, "*n"]]:
        """Return the first row and the row behind the last one of what surrounds rows within their passages."""
        at = np.searchsorted(self.start, row, side="right") - 1
        return np.maximum(self.start[at], row - n_before), np.minimum(self.stop[at], row + n_after + 1)

    def batches(self, store: ActivationStore, hook_point: str, n_rows: int) -> Iterator[PassageBatch]:
        """Read the passages in file order, as many whole ones at a time as fit into `n_rows` rows, at least one."""
        first = 0
        while first < len(self.start):
            last = int(np.searchsorted(self.stop, self.start[first] + n_rows, side="right"))
            last = max(last, first + 1)
            begin, end = int(self.start[first]), int(self.stop[last - 1])
            lengths = self.stop[first:last] - self.start[first:last]
            passage = np.repeat(np.arange(first, last), lengths)
            row = np.arange(len(passage)) + np.repeat(self.start[first:last] - np.cumsum(lengths) + lengths, lengths)
            acts = store.rows(hook_point, slice(begin, end))
            yield PassageBatch(acts if len(row) == len(acts) else acts[row - begin], row, passage)
            first = last


def find_passages(store: ActivationStore, *, max_rows: int | None = None) -> Passages:
    """Find the passages of a store: consecutive rows whose document is the same and whose position grows by one.

    Args:
        store: The store.
        max_rows: Most rows that are looked at, from the start of the file.

    Raises:
        ConfigError: There is no running text.
    """
    n_rows = min(store.n_rows, max_rows or store.n_rows)
    token, position, entity = (store.row_field(name)[:n_rows] for name in ("token_id", "position", "from_entity"))
    doc_id, is_text = store.doc_id[:n_rows], entity == 0
    if not is_text.any():
        raise ConfigError(
            f"no running text in '{store.path}'",
            got=f"{n_rows:,} rows, all of them contexts of entities",
            expected="a store of running text",
        )
    row = np.arange(n_rows)
    begins = np.r_[True, (np.diff(doc_id) != 0) | (np.diff(position) != 1) | (np.diff(is_text.astype(int)) != 0)]
    of_run = np.flatnonzero(begins)[np.cumsum(begins) - 1]
    start = np.flatnonzero((row - of_run) % PASSAGE_TOKENS == 0)
    stop = np.r_[start[1:], n_rows]
    kept = is_text[start]
    return Passages(start[kept], stop[kept], token, doc_id, position)
