"""Shuffled batches from an activation store, in bounded memory; a batch is a function of seed and number.

An epoch permutes the chunks of the file, reads them in groups that fill the buffer, and shuffles the rows
inside each group. The cursor is one number, the batch index; nothing else has to be saved to continue.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError


class ShuffledBatches:
    """Batches of the rows where `use` is true, endlessly, epoch after epoch.

    Args:
        store: The open store.
        hook_point: Canonical name.
        use: Which rows may be drawn, (n_rows,) bool.
        batch_size: Rows in a batch; a batch may span two groups, never two epochs' tail: it carries over.
        seed: Decides the order.
        buffer_mb: Memory for one group of chunks, as float32.
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
    ) -> None:
        if not use.any():
            raise ConfigError("no rows to train on", got="an empty split", expected="at least one row")
        self.store, self.hook_point, self.use = store, hook_point, use
        self.batch_size, self.seed = batch_size, seed
        self.chunk = store.chunk_rows(hook_point)
        row_bytes = store.d_in(hook_point) * 4
        self.group_chunks = max(1, buffer_mb * 2**20 // (row_bytes * self.chunk))
        self.n_chunks = -(-store.n_rows // self.chunk)
        self.used_per_chunk = np.add.reduceat(use.astype(np.int64), np.arange(0, store.n_rows, self.chunk))

    def from_batch(self, index: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Yield the batches `index`, `index + 1`, …; groups before the cursor are counted, not read."""
        skip = index * self.batch_size
        held = torch.empty(0, self.store.d_in(self.hook_point))
        for epoch, number, chunks in self._groups():
            n_used = int(self.used_per_chunk[chunks].sum())
            if skip >= n_used:
                skip -= n_used
                continue
            held = torch.cat([held, self._shuffled(chunks, epoch, number)[skip:]])
            skip = 0
            whole = len(held) // self.batch_size * self.batch_size
            if whole:  # `split` of no rows would yield one empty batch
                yield from held[:whole].split(self.batch_size)
            held = held[whole:].clone()

    def _groups(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (epoch, number of the group, its chunks), endlessly."""
        epoch = 0
        while True:
            order = np.random.default_rng([self.seed, epoch, 0]).permutation(self.n_chunks)
            for number, start in enumerate(range(0, self.n_chunks, self.group_chunks)):
                yield epoch, number, order[start : start + self.group_chunks]
            epoch += 1

    def _shuffled(self, chunks: np.ndarray, epoch: int, number: int) -> Float[Tensor, "row d_in"]:
        """Read the usable rows of some chunks, in file order for the disk, then shuffle them."""
        parts = []
        for chunk in np.sort(chunks):
            part = slice(int(chunk) * self.chunk, min((int(chunk) + 1) * self.chunk, self.store.n_rows))
            if self.use[part].any():
                parts.append(self.store.rows(self.hook_point, part)[torch.from_numpy(self.use[part])])
        if not parts:
            return torch.empty(0, self.store.d_in(self.hook_point))
        rows = torch.cat(parts)
        order = np.random.default_rng([self.seed, epoch, 1, number]).permutation(len(rows))
        return rows[torch.from_numpy(order)]


def sample_rows(
    store: ActivationStore, hook_point: str, use: np.ndarray, *, n_rows: int, seed: int
) -> Float[Tensor, "row d_in"]:
    """Return about `n_rows` usable rows from random chunks, for statistics a trainer needs before it starts."""
    sampler = ShuffledBatches(store, hook_point, use, batch_size=1, seed=seed, buffer_mb=1)
    order = np.random.default_rng([seed, 2]).permutation(sampler.n_chunks)
    parts, count = [], 0
    for chunk in order:
        rows = sampler._shuffled(np.array([chunk]), 0, int(chunk))
        parts.append(rows)
        count += len(rows)
        if count >= n_rows:
            break
    return torch.cat(parts)[:n_rows]
