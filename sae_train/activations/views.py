"""One hook point of an activation store as a sliceable array and as a torch dataset."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sae_train.activations.encoding import STORED_KIND, decode_acts
from sae_train.rng import rng

if TYPE_CHECKING:
    from sae_train.activations.store import ActivationStore

Index = int | np.integer | slice | Sequence[int] | np.ndarray
WINDOW_CHUNKS = 16  # of about 1 MiB: what is shuffled together, and what a dataset remembers


class ActivationRows:
    """The activations of one hook point, `store["layers.2"]`: indexing reads rows as float32, whole chunks checked.

    Attributes:
        hook_point: Canonical name.
        shape: (n_rows, d_in).
    """

    def __init__(self, store: ActivationStore, hook_point: str) -> None:
        self.store, self.hook_point = store, store.hook_point(hook_point)
        self.shape = (store.n_rows, store.d_in(self.hook_point))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Float[np.ndarray, " d_in"] | Float[np.ndarray, "row d_in"]:
        """Return one row, (d_in,), or several, (n, d_in): an integer, a slice, or a list of integers."""
        if isinstance(index, slice):
            return read_slice(self.store, self.hook_point, index).numpy()
        chunk = partial(self.store.chunk, self.hook_point)
        if isinstance(index, int | np.integer):
            return gather(self.store, self.hook_point, [int(index)], chunk)[0].numpy()
        return gather(self.store, self.hook_point, index, chunk).numpy()

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """Return all of them: `numpy.asarray(store["layers.2"])`."""
        return self[:].astype(dtype or np.float32, copy=False)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<activations at {self.hook_point}, {self.shape[0]:,} rows of {self.shape[1]}>"


class ActivationDataset(Dataset[Tensor]):
    """The rows of one hook point for torch's `DataLoader`, in float32 on the host; `num_workers=0`.

        dataset = store.dataset("layers.2")
        loader = DataLoader(dataset, batch_size=512, sampler=dataset.shuffled(seed=0))

    The last chunks read are kept, as many as `shuffled` draws from at a time, so that each is read once an epoch.
    """

    def __init__(self, store: ActivationStore, hook_point: str) -> None:
        self.store, self.hook_point = store, store.hook_point(hook_point)
        self._chunks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._n_kept = WINDOW_CHUNKS

    def __len__(self) -> int:
        return self.store.n_rows

    def __getitem__(self, index: Index) -> Tensor:
        """Return one row, (d_in,), or the rows of a slice or a list, (n, d_in)."""
        if isinstance(index, slice):
            return read_slice(self.store, self.hook_point, index)
        if isinstance(index, int | np.integer):
            return self._rows([int(index)])[0]
        return self._rows(index)

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """Return the rows of a batch, each of its chunks looked up once; what `DataLoader` calls."""
        return list(self._rows(indices))

    def shuffled(self, *, seed: int = 0, window_chunks: int = WINDOW_CHUNKS) -> BlockShuffle:
        """Return a sampler that visits every row once, shuffled among `window_chunks` chunks from all over the file."""
        self.keep(window_chunks)
        return BlockShuffle(len(self), self.store.chunk_rows(self.hook_point), seed=seed, window_chunks=window_chunks)

    def keep(self, n_chunks: int) -> None:
        """Keep at least so many of the chunks read last."""
        self._n_kept = max(self._n_kept, n_chunks)

    def _rows(self, indices: Sequence[int] | np.ndarray) -> Float[Tensor, "row d_in"]:
        return gather(self.store, self.hook_point, indices, self._chunk)

    def _chunk(self, number: int) -> np.ndarray:
        """Return a chunk as it is stored, from memory where it was read lately."""
        if number not in self._chunks:
            self._chunks[number] = self.store.chunk(self.hook_point, number)
            while len(self._chunks) > self._n_kept:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(number)
        return self._chunks[number]


class BlockShuffle(Sampler[int]):
    """Every row once: chunks in drawn order, rows shuffled among a few chunks at a time. The seed decides the order.

    Args:
        n_rows: Rows in all.
        chunk_rows: Rows in a chunk.
        seed: Of the order.
        window_chunks: Chunks whose rows are shuffled together.
    """

    def __init__(self, n_rows: int, chunk_rows: int, *, seed: int, window_chunks: int) -> None:
        self.n_rows, self.chunk_rows, self.seed, self.window_chunks = n_rows, chunk_rows, seed, window_chunks

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> Iterator[int]:
        generator = rng("store.dataset", self.seed)
        chunks = generator.permutation(-(-self.n_rows // self.chunk_rows))
        for first in range(0, len(chunks), self.window_chunks):
            starts = chunks[first : first + self.window_chunks] * self.chunk_rows
            rows = (starts[:, None] + np.arange(self.chunk_rows)).ravel()
            yield from generator.permutation(rows[rows < self.n_rows]).tolist()


def read_slice(store: ActivationStore, hook_point: str, part: slice) -> Float[Tensor, "row d_in"]:
    """Return the rows of any slice; only the chunks between its ends are read."""
    picked = range(store.n_rows)[part]
    if not picked:
        return torch.empty(0, store.d_in(hook_point))
    low, high = min(picked[0], picked[-1]), max(picked[0], picked[-1]) + 1
    rows = store.rows(hook_point, slice(low, high))
    return rows if picked.step == 1 else rows[torch.tensor([i - low for i in picked])]


def gather(
    store: ActivationStore, hook_point: str, indices: Sequence[int] | np.ndarray, chunk: Callable[[int], np.ndarray]
) -> Float[Tensor, "row d_in"]:
    """Return rows by number, in the order given, or those where a mask is true; each chunk is asked for once.

    Args:
        store: The store.
        hook_point: Canonical name.
        indices: Row numbers, negative ones from the end, or a mask (n_rows,).
        chunk: Returns a chunk as it is stored, by number.

    Raises:
        IndexError: There is no such row.
    """
    numbers = np.asarray(indices)
    numbers = np.flatnonzero(numbers) if numbers.dtype == bool else numbers.astype(np.int64)
    wrong = numbers[(numbers < -store.n_rows) | (numbers >= store.n_rows)]
    if len(wrong):
        raise IndexError(f"row {wrong[0]} of a store of {store.n_rows} rows")
    numbers = numbers % store.n_rows
    edges = store.chunk_edges(hook_point)
    of_chunk = np.searchsorted(edges, numbers, "right") - 1
    stored = np.empty((len(numbers), store.d_in(hook_point)), dtype=STORED_KIND[store.dtype])
    for number in np.unique(of_chunk).tolist():
        is_here = of_chunk == number
        stored[is_here] = chunk(number)[numbers[is_here] - edges[number]]
    return decode_acts(stored, store.dtype)
