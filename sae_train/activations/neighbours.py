"""Rows with their neighbours in the document, for losses over time and for context: a dataset of torch.

    windows = store.windows("layers.2", before=2, after=1)
    loader = DataLoader(windows, batch_size=512, sampler=windows.shuffled(seed=0))

An item holds the activations at positions p - before, ..., p + after of one document, (before + 1 + after, d_in). A
neighbour is found by document and position wherever in the store it lies. There are only whole ones: at the ends of a
document, beside a token that is no row (special tokens, the rest of an entity's context) there is none. A document
that was longer than the context was read in windows: neighbours on either side of such a cut did not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from sae_train.activations.views import WINDOW_CHUNKS, ActivationDataset, BlockShuffle
from sae_train.errors import ConfigError

if TYPE_CHECKING:
    from sae_train.activations.store import ActivationStore


class NeighbourDataset(Dataset[Tensor]):
    """Windows of neighbouring rows at one hook point, in float32 on the host; `num_workers=0`.

    Args:
        store: The open store.
        hook_point: Where.
        before: Neighbours in front of a row.
        after: Neighbours behind it.
        use: Rows that may be in a window, (n_rows,) bool; by default all.

    Attributes:
        rows: Row numbers of every window, (window, before + 1 + after), ascending by the middle row.

    Raises:
        ConfigError: A number is below zero, or no row has so many neighbours.
        HookPointError: The store has no such hook point.
    """

    def __init__(
        self, store: ActivationStore, hook_point: str, *, before: int = 1, after: int = 0, use: np.ndarray | None = None
    ) -> None:
        for name, value in (("before", before), ("after", after)):
            if value < 0:
                raise ConfigError(f"{name} is out of range", got=value, field=name, expected="a whole number >= 0")
        self.before, self.after = before, after
        self.acts = ActivationDataset(store, hook_point)
        self.rows = neighbours(store.doc_id, store.row_field("position"), before=before, after=after, use=use)
        if not len(self.rows):
            raise ConfigError(
                "no row has so many neighbours",
                got=f"before {before}, after {after}",
                expected=f"documents of at least {before + 1 + after} rows in a row in '{store.path}'",
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Float[Tensor, "width d_in"]:
        """Return one window."""
        return self.acts[self.rows[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """Return several windows, each chunk looked up once; what `DataLoader` calls."""
        return list(self.batch(indices))

    def batch(self, indices: Sequence[int] | np.ndarray) -> Float[Tensor, "batch width d_in"]:
        """Return several windows as one tensor."""
        rows = self.rows[np.asarray(indices)]
        return self.acts[rows.ravel()].unflatten(0, rows.shape)

    def shuffled(self, *, seed: int = 0, window_chunks: int = WINDOW_CHUNKS) -> BlockShuffle:
        """Return a sampler that visits every window once, shuffled among `window_chunks` chunks from all over the file.

        As many chunks are kept in memory, so that each is read about once an epoch.
        """
        store, hook_point = self.acts.store, self.acts.hook_point
        self.acts.keep(window_chunks + 2)  # the neighbours of a chunk's last row lie in the next one
        return BlockShuffle(len(self), store.chunk_rows(hook_point), seed=seed, window_chunks=window_chunks)


def neighbours(
    doc_id: Int[np.ndarray, " row"],
    position: Int[np.ndarray, " row"],
    *,
    before: int,
    after: int,
    use: np.ndarray | None = None,
) -> Int[np.ndarray, "window width"]:
    """Return the row numbers of whole windows, ascending by the middle row.

    Args:
        doc_id: Document of each row.
        position: Its place in the document.
        before: Neighbours in front of a row.
        after: Neighbours behind it.
        use: Rows that may be in a window; by default all.

    Example:
        >>> neighbours(np.array([0, 0, 0, 1]), np.array([4, 3, 5, 6]), before=1, after=0).tolist()
        [[1, 0], [0, 2]]
    """
    order = np.lexsort((position, doc_id))  # the rows in reading order, document after document
    order = order if use is None else order[use[order]]
    width = before + 1 + after
    if len(order) < width:
        return np.empty((0, width), dtype=np.int64)
    follows = (np.diff(doc_id[order]) == 0) & (np.diff(position[order]) == 1)
    # How many steps in a row went on, up to each place: a window is whole where the last width - 1 did.
    gaps = np.concatenate([[0], np.cumsum(~follows)])
    starts = np.flatnonzero(gaps[width - 1 :] == gaps[: len(gaps) - width + 1])
    found = order[starts[:, None] + np.arange(width)]
    return found[np.argsort(found[:, before], kind="stable")]
