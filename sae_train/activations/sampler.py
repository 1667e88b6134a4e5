"""Shuffled batches from an activation store, in bounded memory; a batch is a function of seed and number.

An epoch permutes the chunks of the file, reads them in groups, and shuffles the rows inside each group. One group is
consumed while a background thread fills the next, so that reading and training overlap; both stay in the stored format
and share the buffer between them. The cursor is one number, the batch index; nothing else has to be saved to continue.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.activations.encoding import STORED_KIND, as_tensor, decode_acts
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError
from sae_train.rng import rng


class _Group(NamedTuple):
    """Chunks that are read and shuffled together."""

    epoch: int
    number: int
    chunks: np.ndarray


class ShuffledBatches:
    """Batches of the rows where `use` is true, endlessly, epoch after epoch.

    Args:
        store: The open store.
        hook_point: Canonical name.
        use: Which rows may be drawn, (n_rows,) bool.
        batch_size: Rows in a batch; a batch may span two groups, and two epochs.
        seed: Decides the order.
        buffer_mb: Memory for the two groups of chunks, as they are stored.
        pin_memory: Put batches into page-locked memory, from which a CUDA device copies without waiting.
    """

    def __init__(
        self,
        store: ActivationStore,
        hook_point: str,
        use: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        buffer_mb: int,
        pin_memory: bool = False,
    ) -> None:
        if not use.any():
            raise ConfigError("no rows to train on", got="an empty split", expected="at least one row")
        self.store, self.hook_point, self.use = store, hook_point, use
        self.batch_size, self.seed, self.pin_memory = batch_size, seed, pin_memory
        self.chunk, self.d_in = store.chunk_rows(hook_point), store.d_in(hook_point)
        self.kind = np.dtype(STORED_KIND[store.dtype])
        chunk_bytes = self.d_in * self.kind.itemsize * self.chunk
        self.group_chunks = max(1, buffer_mb * 2**20 // (2 * chunk_bytes))
        self.n_chunks = store.n_chunks(hook_point)
        self.edges = store.chunk_edges(hook_point)
        self.used_per_chunk = np.add.reduceat(use, self.edges[:-1], dtype=np.int64)

    def from_batch(self, index: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Yield the batches `index`, `index + 1`, …; groups before the cursor are counted, not read."""
        groups, skip = self._groups_from(index * self.batch_size)
        held = torch.empty(0, self.d_in)
        for rows in self._read_ahead(groups):
            start, skip = skip, 0
            while start < len(rows):
                part = rows[start : start + self.batch_size - len(held)]
                start += len(part)
                held = torch.cat([held, part.float()]) if len(held) else part.to(torch.float32, copy=True)
                if len(held) == self.batch_size:
                    yield held.pin_memory() if self.pin_memory else held
                    held = torch.empty(0, self.d_in)

    def _groups_from(self, row: int) -> tuple[Iterator[_Group], int]:
        """Return the groups from the one that holds the n-th drawn row on, and that row's place in it."""
        groups = self._groups()
        for group in groups:
            n_used = int(self.used_per_chunk[group.chunks].sum())
            if row < n_used:
                return itertools.chain([group], groups), row
            row -= n_used
        raise AssertionError("epochs do not end")

    def _read_ahead(self, groups: Iterator[_Group]) -> Iterator[Tensor]:
        """Yield the shuffled rows of each group, as stored, while the next one is being read.

        They stay valid until the next ones are asked for: two buffers take turns.
        """
        buffers = itertools.cycle(self._buffer() for _ in range(2))
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="wb-reader") as reader:
            waiting = reader.submit(self._shuffled, next(groups), next(buffers))
            for group, buffer in zip(groups, buffers, strict=False):
                found = waiting.result()
                waiting = reader.submit(self._shuffled, group, buffer)
                yield found

    def _buffer(self) -> np.ndarray:
        """Return room for the rows of one group."""
        most = int(np.sort(self.used_per_chunk)[-self.group_chunks :].sum())
        return np.empty((most, self.d_in), dtype=self.kind)

    def _groups(self) -> Iterator[_Group]:
        """Yield every group, epoch after epoch."""
        for epoch in itertools.count():
            order = rng("sampler.chunk_order", self.seed, epoch, 0).permutation(self.n_chunks)
            for number, start in enumerate(range(0, self.n_chunks, self.group_chunks)):
                yield _Group(epoch, number, order[start : start + self.group_chunks])

    def _shuffled(self, group: _Group, buffer: np.ndarray) -> Tensor:
        """Read the usable rows of some chunks, in file order for the disk, each row to its drawn place."""
        n_rows = int(self.used_per_chunk[group.chunks].sum())
        order = rng("sampler.row_order", self.seed, group.epoch, 1, group.number).permutation(n_rows)
        places = np.empty(n_rows, dtype=np.int64)
        places[order] = np.arange(n_rows)
        first = 0
        wanted = [int(chunk) for chunk in np.sort(group.chunks) if self.used_per_chunk[chunk]]
        for chunk, rows in zip(wanted, self.store.chunks(self.hook_point, wanted), strict=True):
            used = self.use[self.edges[chunk] : self.edges[chunk + 1]]
            rows = rows if used.all() else rows[used]
            buffer[places[first : first + len(rows)]] = rows
            first += len(rows)
        return as_tensor(buffer[:n_rows], self.store.dtype)


def sample_rows(
    store: ActivationStore, hook_point: str, use: np.ndarray, *, n_rows: int, seed: int
) -> Float[Tensor, "row d_in"]:
    """Return about `n_rows` usable rows from random chunks, for statistics a trainer needs before it starts."""
    edges = store.chunk_edges(hook_point)
    parts, count = [], 0
    for chunk in rng("sampler.sample_chunks", seed, 2).permutation(store.n_chunks(hook_point)):
        used = use[edges[chunk] : edges[chunk + 1]]
        if used.any():
            rows = store.chunk(hook_point, int(chunk))[used]
            order = rng("sampler.sample_rows", seed, 0, 1, int(chunk)).permutation(len(rows))
            parts.append(decode_acts(rows[order], store.dtype))
            count += len(rows)
        if count >= n_rows:
            break
    return torch.cat(parts)[:n_rows]
