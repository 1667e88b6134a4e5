"""Two places whose rows belong together, side by side as one: an MLP's input and output, a model before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_train.activations.comparison import frac_same_rows
from sae_train.activations.several import StoreSource, opened_store
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError, ShapeError


class JoinedStore(ActivationStore):
    """A store whose rows are those of two places, one behind the other: (n_rows, d_first + d_second).

    Everything but activations is the first store's, the names of the hook points included.

    Args:
        first: An open store.
        second: An open store of the same rows; may be the same one.
        target: Place in the second that belongs to every place in the first; by default the one of the same name.

    Raises:
        HookPointError: The second has no such hook point.
        ShapeError: Number of rows, number format, width or chunks differ.
    """

    def __init__(self, first: ActivationStore, second: ActivationStore, target: str | None = None) -> None:
        self.first, self.second = first, second
        self.target = None if target is None else second.hook_point(target)
        self.path, self.dtype, self.n_rows = first.path, first.dtype, first.n_rows
        self.result = self.output = None
        self.attrs = first.attrs if second is first else {**first.attrs, "other_model": second.attrs["model"]}
        self.hook_points = [name for name in first.hook_points if self._other(name) in second.hook_points]
        for name in self.hook_points:
            one = (first.n_rows, first.d_in(name), first.dtype)
            two = (second.n_rows, second.d_in(self._other(name)), second.dtype)
            if one != two:
                raise ShapeError(
                    f"{name} in '{first.path}' and {self._other(name)} in '{second.path}' do not go together",
                    got=f"(rows, width, format) {two}",
                    expected=f"{one}",
                )
            if not np.array_equal(first.chunk_edges(name), second.chunk_edges(self._other(name))):
                raise ShapeError(
                    f"{name} in '{first.path}' and {self._other(name)} in '{second.path}' lie in other files or chunks",
                    got=f"{second.n_chunks(self._other(name))} chunks with other edges",
                    expected=f"the {first.n_chunks(name)} chunks of the first",
                    try_="as many stores of either model, made from the same texts",
                )

    def _other(self, hook_point: str) -> str:
        """Return the place in the second store that belongs to one in the first."""
        return self.target or hook_point

    def close(self) -> None:
        """Do nothing: the stores are their owners'."""

    def widths(self, hook_point: str) -> tuple[int, int]:
        """Return the widths of the two places."""
        return self.first.d_in(hook_point), self.second.d_in(self._other(hook_point))

    def row_field(self, name: str) -> np.ndarray:
        """Return a field of every row."""
        return self.first.row_field(name)

    def d_in(self, hook_point: str) -> int:
        """Return the width of the rows."""
        return sum(self.widths(hook_point))

    def chunk_rows(self, hook_point: str) -> int:
        """Return the number of rows in one chunk, in either place."""
        return self.first.chunk_rows(hook_point)

    def n_chunks(self, hook_point: str) -> int:
        """Return the number of chunks."""
        return self.first.n_chunks(hook_point)

    def chunk(self, hook_point: str, index: int) -> np.ndarray:
        """Read one chunk of both places, as it is stored.

        Raises:
            FileFormatError: The content of one does not fit its checksum.
        """
        parts = (self.first.chunk(hook_point, index), self.second.chunk(self._other(hook_point), index))
        return np.concatenate(parts, axis=1)

    def chunk_edges(self, hook_point: str) -> np.ndarray:
        """Return the first row of every chunk, and the number of rows behind them."""
        return self.first.chunk_edges(hook_point)

    def chunks(self, hook_point: str, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Read chunks of both places, in the order given."""
        pairs = zip(
            self.first.chunks(hook_point, numbers), self.second.chunks(self._other(hook_point), numbers), strict=True
        )
        yield from (np.concatenate(pair, axis=1) for pair in pairs)

    def rows_where(self, hook_point: str, part: slice, use: Bool[np.ndarray, " row"]) -> Float[Tensor, "used d_in"]:
        """Read the rows of a part where `use` is true, of both places."""
        places = ((self.first, hook_point), (self.second, self._other(hook_point)))
        return torch.cat([store.rows_where(place, part, use) for store, place in places], dim=1)

    def identity(self) -> dict[str, object]:
        """Return what decides the content of both stores."""
        found = self.first.identity()
        return found if self.second is self.first else {**found, "other": self.second.identity()}


def joined_rows(store: ActivationStore, target_hook_point: str | None) -> ActivationStore:
    """Return the store whose rows are those of input and output, or the store itself where these are one place.

    Raises:
        ConfigError: The rows are those of two models already.
        HookPointError: There is no such place.
    """
    if not target_hook_point:
        return store
    if isinstance(store, JoinedStore):
        raise ConfigError(
            "a transcoder of two models at once is none of ours",
            got=target_hook_point,
            field="target_hook_point",
            expected="one store",
        )
    return JoinedStore(store, store, target_hook_point)


def both_models(before: ActivationStore, after: ActivationStore) -> JoinedStore:
    """Return the store whose rows are those of two models that read the same text.

    Raises:
        ConfigError: They are not the same tokens of the same documents in the same order.
        ShapeError: Width or number format differ.
    """
    frac_same = frac_same_rows(before, after)
    if frac_same != 1:
        raise ConfigError(
            f"'{before.path}' and '{after.path}' are not the same rows",
            got=f"{frac_same:.1%} with equal token, document and position",
            field="other",
            expected="all of them",
            try_="both stores from one text, with the same options",
        )
    return JoinedStore(before, after)


@contextmanager
def opened_pair(store: StoreSource, other: StoreSource | None) -> Iterator[ActivationStore]:
    """Yield a store, or the joined rows of two models, as `opened_store` does.

    Raises:
        ConfigError, ShapeError: As `both_models`.
    """
    with opened_store(store) as opened:
        if other is None:
            yield opened
            return
        with opened_store(other) as second:
            yield both_models(opened, second)


def row_widths(store: ActivationStore, hook_point: str) -> tuple[int, ...]:
    """Return the width of the rows of a hook point, or of each of its two parts."""
    return store.widths(hook_point) if isinstance(store, JoinedStore) else (store.d_in(hook_point),)
