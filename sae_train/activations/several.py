"""Stores of one model as one: rows of the first file, then those of the second; local ones and remote ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError, ShapeError

StoreSource = ActivationStore | str | Path | Sequence[str | Path]
_SAME = ("model_hash", "tokenizer_hash")


class SeveralStores(ActivationStore):
    """Open stores of one model, laid end to end; the documents of each keep numbers of their own.

    A chunk lies in one of the files, so the last chunk of every file may be short.

    Args:
        stores: At least one, which stay open and are closed by whoever opened them.

    Raises:
        ConfigError: They are of different models or tokenizers, hold other hook points, or one is named twice.
        ShapeError: Width, number format or chunks differ.
    """

    def __init__(self, stores: Sequence[ActivationStore]) -> None:
        first = stores[0]
        self.stores, self.result, self.output = list(stores), None, None
        self.path, self.hook_points, self.dtype = first.path, first.hook_points, first.dtype
        self._row_edges = np.cumsum([0, *(store.n_rows for store in stores)])
        self.n_rows = int(self._row_edges[-1])
        for store in stores[1:]:
            _check_same(first, store)
        plans = [store.attrs.get("plan_hash") for store in stores]
        if len(set(plans)) < len(plans) and None not in plans:
            raise ConfigError(
                "a store is named twice",
                got=", ".join(str(store.path) for store in stores),
                expected="stores of different text",
            )
        self.attrs = {**first.attrs, "n_rows": self.n_rows, "plan_hash": "+".join(str(plan) for plan in plans)}

    def close(self) -> None:
        """Do nothing: the stores are their owners'."""

    def row_field(self, name: str) -> np.ndarray:
        """Return a field of every row, (n_rows,)."""
        found, n_documents = [], 0
        for store in self.stores:
            values = store.row_field(name)
            if name == "doc_id":
                values = values + n_documents
                n_documents = int(values.max()) + 1
            found.append(values)
        return np.concatenate(found)

    def d_in(self, hook_point: str) -> int:
        """Return the width of the activations."""
        return self.stores[0].d_in(hook_point)

    def chunk_rows(self, hook_point: str) -> int:
        """Return the number of rows in a chunk that is not the last of a file."""
        return max(store.chunk_rows(hook_point) for store in self.stores)

    def n_chunks(self, hook_point: str) -> int:
        """Return the number of chunks in all files."""
        return sum(store.n_chunks(hook_point) for store in self.stores)

    def chunk_edges(self, hook_point: str) -> np.ndarray:
        """Return the first row of every chunk, and the number of rows behind them."""
        edges = [s.chunk_edges(hook_point)[:-1] + n for s, n in zip(self.stores, self._row_edges[:-1], strict=True)]
        return np.append(np.concatenate(edges), self.n_rows)

    def chunk(self, hook_point: str, index: int) -> np.ndarray:
        """Read one chunk as it is stored."""
        (rows,) = self.chunks(hook_point, [index])
        return rows

    def chunks(self, hook_point: str, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Read chunks, in the order given; those that follow each other in one file together."""
        first = np.cumsum([0, *(store.n_chunks(hook_point) for store in self.stores)])
        for which, group in groupby(numbers, key=lambda n: int(np.searchsorted(first, n, "right")) - 1):
            yield from self.stores[which].chunks(hook_point, [int(n - first[which]) for n in group])

    def rows(self, hook_point: str, part: slice) -> Float[Tensor, "row d_in"]:
        """Read consecutive rows as float32."""
        start, stop, _ = part.indices(self.n_rows)
        found = [torch.empty(0, self.d_in(hook_point))]
        for store, edge in zip(self.stores, self._row_edges.tolist(), strict=False):
            begin, end = max(start - edge, 0), min(stop - edge, store.n_rows)
            if begin < end:
                found.append(store.rows(hook_point, slice(begin, end)))
        return torch.cat(found)

    def damaged_chunks(self) -> list[str]:
        """Read everything; name the row ranges of damaged chunks, with their file."""
        return [f"{store.path}: {what}" for store in self.stores for what in store.damaged_chunks()]

    def identity(self) -> dict[str, Any]:
        """Return what decides the content: that of all of them, in order."""
        return {**super().identity(), "stores": [store.identity() for store in self.stores]}


def _check_same(first: ActivationStore, other: ActivationStore) -> None:
    """Refuse a store whose rows are not of the kind of the first one's."""
    for key in _SAME:
        if first.attrs.get(key) != other.attrs.get(key):
            raise ConfigError(
                f"'{first.path}' and '{other.path}' are of different models: {key.replace('_', ' ')}",
                got=str(other.attrs.get(key)),
                expected=str(first.attrs.get(key)),
            )
    if first.hook_points != other.hook_points:
        raise ConfigError(
            f"'{other.path}' has other hook points than '{first.path}'",
            got=", ".join(other.hook_points),
            expected=", ".join(first.hook_points),
        )
    for name in first.hook_points:
        one, two = ((store.d_in(name), store.dtype) for store in (first, other))
        if one != two:
            raise ShapeError(
                f"{name} in '{first.path}' and in '{other.path}' do not go together",
                got=f"(width, format) {two}",
                expected=f"{one}",
            )


@contextmanager
def opened_store(store: StoreSource) -> Iterator[ActivationStore]:
    """Yield a store that is open already, and leave it so, or open one or several for as long as the block lasts.

    Args:
        store: An open store, a path, an address that fsspec knows, or several paths or addresses.

    Raises:
        ConfigError, ShapeError: Several do not go together, as `SeveralStores` says.
    """
    if isinstance(store, ActivationStore):
        yield store
        return
    sources = [store] if isinstance(store, str | Path) else list(store)
    if not sources:
        raise ConfigError("no activations", got="an empty list", expected="at least one store")
    with ExitStack() as stack:
        opened = [stack.enter_context(ActivationStore(source)) for source in sources]
        yield opened[0] if len(opened) == 1 else SeveralStores(opened)
