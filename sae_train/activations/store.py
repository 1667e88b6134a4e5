"""Open an activation store, read rows of it, split it by document, describe it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_train import h5
from sae_train.activations.writer import SCHEMA, VERSION
from sae_train.errors import ConfigError, FileFormatError, HookPointError, SchemaError, nearest_first
from sae_train.lm.hooks import canonical_hook_point

_HOLDOUT_SALT = 0x5AE


class ActivationStore:
    """A complete store, open for reading. Use as a context manager.

    Attributes:
        attrs: Provenance and counts, as written.
        hook_points: Names of the hook points in it.
        doc_id: Document of each row, (n_rows,), int32.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        try:
            self._file = self._stack.enter_context(h5.open_checked(path, SCHEMA, VERSION))
            self.attrs: dict[str, Any] = h5.get_attrs(self._file)
            self._check_complete()
            self._acts = h5.group_of(self._file, "acts", path)
            self.hook_points: list[str] = list(self.attrs["hook_points"])
            self.dtype: str = self.attrs["dtype"]
            self.n_rows: int = int(self.attrs["n_rows"])
            self._check_shapes()
            self.doc_id = self.row_field("doc_id")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def _check_complete(self) -> None:
        if not self.attrs.get("complete"):
            raise FileFormatError(
                f"'{self.path}' is not finished",
                got=f"{self.attrs.get('rows_committed')} of {self.attrs.get('n_rows')} rows",
                expected="a complete store",
                try_="the same wb cache-activations command with --resume",
            )

    def _check_shapes(self) -> None:
        for name in self.hook_points:
            shape = h5.dataset_of(self._acts, name, self.path).shape
            if len(shape) != 2 or shape[0] != self.n_rows:
                raise SchemaError(f"'{self.path}' is inconsistent at {name}", got=shape, expected=(self.n_rows, "d_in"))
        for name in ("token_id", "doc_id", "position", "from_entity"):
            shape = h5.dataset_of(self._file, name, self.path).shape
            if shape != (self.n_rows,):
                raise SchemaError(f"'{self.path}' is inconsistent at {name}", got=shape, expected=(self.n_rows,))

    def row_field(self, name: str) -> np.ndarray:
        """Return `token_id`, `doc_id`, `position` or `from_entity` of every row, (n_rows,)."""
        return h5.read(h5.dataset_of(self._file, name, self.path))

    def hook_point(self, name: str) -> str:
        """Return the canonical name.

        Raises:
            HookPointError: The store holds no such hook point.
        """
        canonical = canonical_hook_point(name)
        if canonical not in self.hook_points:
            raise HookPointError(
                f"no hook point '{name}' in '{self.path}'",
                got=f"{name} (--hook-point)",
                expected=nearest_first(canonical, self.hook_points),
            )
        return canonical

    def d_in(self, hook_point: str) -> int:
        """Return the width of the activations at a hook point."""
        return int(h5.dataset_of(self._acts, hook_point, self.path).shape[1])

    def chunk_rows(self, hook_point: str) -> int:
        """Return the number of rows in one chunk on disk."""
        chunks = h5.dataset_of(self._acts, hook_point, self.path).chunks
        return int(chunks[0]) if chunks else self.n_rows

    def rows(self, hook_point: str, part: slice) -> Float[Tensor, "row d_in"]:
        """Read consecutive rows as float32; checksums are checked."""
        return h5.decode_acts(h5.read(h5.dataset_of(self._acts, hook_point, self.path), part), self.dtype)

    def blocks(self, hook_point: str) -> Iterator[tuple[slice, Float[Tensor, "row d_in"]]]:
        """Read the whole hook point in file order, a few chunks at a time."""
        step = self.chunk_rows(hook_point) * 8
        for start in range(0, self.n_rows, step):
            part = slice(start, min(start + step, self.n_rows))
            yield part, self.rows(hook_point, part)

    def holdout_rows(self, share: float, seed: int) -> np.ndarray:
        """Return which rows lie in held-out documents, (n_rows,) bool: whole documents, drawn by the seed.

        Raises:
            ConfigError: The split leaves no document on one side.
        """
        documents = np.unique(self.doc_id)
        generator = np.random.default_rng([_HOLDOUT_SALT, seed])
        n_held = round(len(documents) * share)
        if n_held < 1 or n_held >= len(documents):
            raise ConfigError(
                "the held-out split is empty",
                got=f"{len(documents)} documents, share {share} (--holdout-share)",
                expected="at least one document on either side",
            )
        return np.isin(self.doc_id, generator.permutation(documents)[:n_held])

    def identity(self) -> dict[str, Any]:
        """Return what decides the content of this store, to record in what is made from it."""
        keys = ("model", "model_hash", "tokenizer_hash", "plan_hash", "dtype", "n_rows", "text")
        return {k: self.attrs.get(k) for k in keys}


@dataclass(frozen=True)
class HookPointStats:
    """Statistics of one hook point over all rows.

    Attributes:
        norm_percentiles: Row norms at the 1st, 25th, 50th, 75th, 99th percentile and the maximum.
        mean_norm: Mean row norm.
        n_nonfinite_rows: Rows with NaN or Inf; they are left out of the rest.
        massive_dims: The dimensions with the largest share of the summed squares, as (dimension, share).
        variance: Mean over dimensions of the variance over rows.
        largest: Largest absolute value.
    """

    d_in: int
    norm_percentiles: dict[str, float]
    mean_norm: float
    n_nonfinite_rows: int
    massive_dims: list[tuple[int, float]]
    variance: float
    largest: float


def hook_point_stats(store: ActivationStore, hook_point: str, *, n_massive: int = 5) -> HookPointStats:
    """Read one hook point once, block by block, and describe it; memory is 8 bytes a row beside one block."""
    d_in = store.d_in(hook_point)
    norms = np.empty(store.n_rows)
    total, squares = torch.zeros(d_in, dtype=torch.float64), torch.zeros(d_in, dtype=torch.float64)
    largest, n_good = 0.0, 0
    for part, acts in store.blocks(hook_point):
        finite = torch.isfinite(acts).all(dim=1)
        norms[part] = np.where(finite.numpy(), acts.norm(dim=1).numpy(), np.nan)
        good = acts[finite].double()
        total += good.sum(0)
        squares += good.square().sum(0)
        n_good += len(good)
        largest = max(largest, float(good.abs().max()) if len(good) else 0.0)
    mean = total / max(1, n_good)
    shares = squares / squares.sum().clamp_min(1e-300)
    top = torch.topk(shares, min(n_massive, d_in))
    ranks = {"p01": 1, "p25": 25, "p50": 50, "p75": 75, "p99": 99, "max": 100}
    usable = norms[np.isfinite(norms)]
    percentiles = np.percentile(usable, list(ranks.values())) if len(usable) else np.full(len(ranks), np.nan)
    return HookPointStats(
        d_in=d_in,
        norm_percentiles=dict(zip(ranks, map(float, percentiles), strict=True)),
        mean_norm=float(np.mean(usable)) if len(usable) else float("nan"),
        n_nonfinite_rows=store.n_rows - n_good,
        massive_dims=[(int(i), float(s)) for s, i in zip(top.values, top.indices, strict=True)],
        variance=float((squares / max(1, n_good) - mean.square()).mean()),
        largest=largest,
    )
