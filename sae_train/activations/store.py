"""Open an activation store, read rows of it, split it by document, describe it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_train.activations.encoding import STORED_KIND, decode_acts
from sae_train.activations.layout import PART_SCHEMA, ROW_FIELDS, SCHEMA, VERSION
from sae_train.activations.views import ActivationDataset, ActivationRows
from sae_train.errors import ConfigError, FileFormatError, HookPointError, SchemaError, nearest_first
from sae_train.lm.hook_names import canonical_hook_point
from sae_train.renamed import with_current_names
from sae_train.rng import rng
from sae_train.run.notebook import html_table
from sae_train.storage import h5, h5_chunks
from sae_train.storage.checksums import array_checksum
from sae_train.storage.remote import RemoteFile, is_address
from sae_train.storage.remote_chunks import RemoteChunks
from sae_train.text.tokenizer_hash import tokenizer_hash

if TYPE_CHECKING:
    import pandas as pd

    from sae_train.activations.neighbours import NeighbourDataset
    from sae_train.activations.writing.writer import CacheResult
    from sae_train.run.outputs import Output


class ActivationStore:
    """A complete store, open for reading: `store["layers.2"][:100]` are the first hundred rows.

    It closes with `close`, at the end of a `with` block, or with the last reference. Every chunk that is read is
    compared with its checksum: a damaged one is an error, never a number.

    Attributes:
        path: The file, local or at an address.
        attrs: Provenance and counts, as written.
        hook_points: Names of the hook points in it.
        n_rows: Rows, the same ones at every hook point.
        result: What the run that wrote it reports, where `cache_activations` returned this store.
        output: The claim on its file, which goes away with the store where nobody named a file.
    """

    _remote: RemoteChunks | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = RemoteFile(path) if isinstance(path, str) and is_address(path) else Path(path)
        self.result: CacheResult | None = None
        self.output: Output | None = None
        self._stack = ExitStack()
        self._finalizer = weakref.finalize(self, self._stack.close)
        try:
            self._file = self._stack.enter_context(h5.open_checked(self.path, SCHEMA, VERSION, may_join=True))
            with h5.understood(self.path):
                self.attrs: dict[str, Any] = with_current_names(h5.get_attrs(self._file))
                self._check_complete()
                self._acts = h5.group_of(self._file, "acts", self.path)
                self.hook_points: list[str] = list(self.attrs["hook_points"])
                self.dtype: str = self.attrs["dtype"]
                self.n_rows: int = int(self.attrs["n_rows"])
                self._checksums = self._check_shapes()
            if isinstance(self.path, RemoteFile):
                self._remote = self._stack.enter_context(RemoteChunks(self.path, PART_SCHEMA, VERSION))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second time nothing happens."""
        self._finalizer()

    def __getitem__(self, hook_point: str) -> ActivationRows:
        """Return the activations of a hook point, to be sliced: float32 arrays (n, d_in)."""
        return ActivationRows(self, hook_point)

    def dataset(self, hook_point: str) -> ActivationDataset:
        """Return the activations of a hook point as a dataset of torch."""
        return ActivationDataset(self, hook_point)

    def windows(
        self, hook_point: str, *, before: int = 1, after: int = 0, use: np.ndarray | None = None
    ) -> NeighbourDataset:
        """Return rows with their neighbours in the document, as a dataset of torch; see `NeighbourDataset`."""
        from sae_train.activations.neighbours import NeighbourDataset

        return NeighbourDataset(self, hook_point, before=before, after=after, use=use)

    def table(self, start: int = 0, stop: int | None = None, *, tokenizer: Any = None) -> pd.DataFrame:
        """Return which tokens the rows `start` to `stop` are: `token_id`, `doc_id`, `position`, `from_entity`.

        Args:
            start: First row.
            stop: Row behind the last one; None goes to the end.
            tokenizer: That of the language model, for a column `token` with the text of each.
        """
        import pandas as pd

        part = slice(start, stop)
        columns = {name: self.row_field(name)[part] for name in ROW_FIELDS}
        index = pd.RangeIndex(self.n_rows)[part].rename("row")
        found = pd.DataFrame(columns, index=index)
        if tokenizer is not None:
            found.insert(1, "token", [tokenizer.decode([i]) for i in columns["token_id"].tolist()])
        return found

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        widths = {name: f"{self.n_rows:,} x {self.d_in(name):,}" for name in self.hook_points}
        origin = {key: self.attrs.get(key) for key in ("model", "text", "ctx_len")}
        n_documents = len(np.unique(self.doc_id))
        rows = {**widths, "stored as": self.dtype, "documents": n_documents, **origin, "file": self.path}
        return html_table(f"Activations in {self.path.name}", rows)

    def _check_complete(self) -> None:
        if not self.attrs.get("complete"):
            raise FileFormatError(
                f"'{self.path}' is not finished",
                got=f"{self.attrs.get('rows_committed')} of {self.attrs.get('n_rows')} rows",
                expected="a complete store",
                try_="the same call of cache-activations with `resume`",
            )

    def _check_shapes(self) -> dict[str, np.ndarray]:
        """Refuse datasets that do not fit each other; return the checksums of every hook point's chunks."""
        group = h5.group_of(self._file, "chunk_checksums", self.path)
        checksums = {}
        for name in self.hook_points:
            dataset = h5.dataset_of(self._acts, name, self.path)
            kind = str(dataset.dtype)
            if dataset.ndim != 2 or dataset.shape[0] != self.n_rows or kind != STORED_KIND.get(self.dtype):
                got, wanted = f"{kind} {dataset.shape}", f"{STORED_KIND.get(self.dtype)} ({self.n_rows}, d_in)"
                raise SchemaError(f"'{self.path}' is inconsistent at {name}", got=got, expected=wanted)
            checksums[name] = h5.read(h5.dataset_of(group, name, self.path))
            n_chunks = -(-self.n_rows // h5_chunks.chunk_rows(dataset))
            if checksums[name].shape != (n_chunks,):
                got = f"{checksums[name].shape} checksums"
                raise SchemaError(f"'{self.path}' is inconsistent at {name}", got=got, expected=f"({n_chunks},)")
        for name in ROW_FIELDS:
            shape = h5.dataset_of(self._file, name, self.path).shape
            if shape != (self.n_rows,):
                raise SchemaError(f"'{self.path}' is inconsistent at {name}", got=shape, expected=(self.n_rows,))
        return checksums

    @cached_property
    def doc_id(self) -> np.ndarray:
        """Document of each row, (n_rows,), int32; read when it is first asked for, and kept."""
        return self.row_field("doc_id")

    def row_field(self, name: str) -> np.ndarray:
        """Return `token_id`, `doc_id`, `position` or `from_entity` of every row, (n_rows,)."""
        self._check_open()
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
                got=f"{name}",
                field="hook_point",
                expected=nearest_first(canonical, self.hook_points),
            )
        return canonical

    def d_in(self, hook_point: str) -> int:
        """Return the width of the activations at a hook point."""
        return int(self._dataset(hook_point).shape[1])

    def chunk_rows(self, hook_point: str) -> int:
        """Return the number of rows in one chunk on disk."""
        return h5_chunks.chunk_rows(self._dataset(hook_point))

    def n_chunks(self, hook_point: str) -> int:
        """Return the number of chunks of a hook point."""
        return len(self._checksums[hook_point])

    def chunk(self, hook_point: str, index: int) -> np.ndarray:
        """Read one chunk as it is stored (see `activations.encoding`).

        Raises:
            FileFormatError: Its content does not fit its checksum.
        """
        if self._remote is not None:
            (rows,) = self.chunks(hook_point, [index])
            return rows
        return self._checked(hook_point, index, h5_chunks.read_chunk(self._dataset(hook_point), index))

    def chunk_edges(self, hook_point: str) -> np.ndarray:
        """Return the first row of every chunk, and the number of rows behind them, (n_chunks + 1,)."""
        return np.append(np.arange(0, self.n_rows, self.chunk_rows(hook_point)), self.n_rows)

    def chunks(self, hook_point: str, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Read chunks as they are stored, in the order given; of a remote file several at once.

        Raises:
            FileFormatError: The content of one does not fit its checksum.
        """
        if self._remote is None:
            yield from (self.chunk(hook_point, number) for number in numbers)
            return
        for number, rows in self._remote.chunks(self._dataset(hook_point), numbers):
            yield self._checked(hook_point, number, rows)

    def _checked(self, hook_point: str, index: int, rows: np.ndarray) -> np.ndarray:
        """Return the rows of a chunk if they fit its checksum."""
        found, recorded = array_checksum(rows), int(self._checksums[hook_point][index])
        if found != recorded:
            raise h5.damaged(
                self._dataset(hook_point), f"checksum {found:016x} of chunk {index}, {recorded:016x} recorded"
            )
        return rows

    def _dataset(self, hook_point: str) -> h5.H5Dataset:
        """Return the dataset of a hook point."""
        self._check_open()
        return h5.dataset_of(self._acts, hook_point, self.path)

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise ConfigError(f"'{self.path}' is closed", got="a closed store", expected="ActivationStore(path)")

    def rows(self, hook_point: str, part: slice) -> Float[Tensor, "row d_in"]:
        """Read consecutive rows as float32; whole chunks are read and checked."""
        start, stop, _ = part.indices(self.n_rows)
        step = self.chunk_rows(hook_point)
        chunks = list(self.chunks(hook_point, range(start // step, -(-max(stop, start + 1) // step))))
        stored = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        begin = start // step * step
        return decode_acts(stored[start - begin : max(stop, start) - begin].copy(), self.dtype)

    def rows_where(self, hook_point: str, part: slice, use: Bool[np.ndarray, " row"]) -> Float[Tensor, "used d_in"]:
        """Read the rows of a part where `use`, as long as the part, is true, as float32."""
        return self.rows(hook_point, part)[torch.from_numpy(use)]

    def blocks(self, hook_point: str) -> Iterator[tuple[slice, Float[Tensor, "row d_in"]]]:
        """Read the whole hook point in file order, a few chunks at a time."""
        step = self.chunk_rows(hook_point) * 8
        for start in range(0, self.n_rows, step):
            part = slice(start, min(start + step, self.n_rows))
            yield part, self.rows(hook_point, part)

    def damaged_chunks(self) -> list[str]:
        """Read everything; name the row ranges of chunks whose content does not fit its checksum."""
        bad = []
        for name in self.hook_points:
            step = self.chunk_rows(name)
            for index in range(self.n_chunks(name)):
                try:
                    self.chunk(name, index)
                except FileFormatError:
                    bad.append(f"/acts/{name}[{index * step}:{min((index + 1) * step, self.n_rows)}]")
        return bad

    def holdout_rows(self, frac: float, seed: int) -> np.ndarray:
        """Return which rows lie in held-out documents, (n_rows,) bool: whole documents, drawn by the seed.

        Raises:
            ConfigError: The split leaves no document on one side.
        """
        is_there = np.zeros(int(self.doc_id.max()) + 1, dtype=bool)  # a billion rows are not sorted
        is_there[self.doc_id] = True
        documents = np.flatnonzero(is_there)
        generator = rng("store.heldout", seed)
        n_held = round(len(documents) * frac)
        if n_held < 1 or n_held >= len(documents):
            raise ConfigError(
                "the held-out split is empty",
                got=f"{len(documents)} documents, frac {frac}",
                field="frac_holdout",
                expected="at least one document on either side",
            )
        is_held = np.zeros_like(is_there)
        is_held[generator.permutation(documents)[:n_held]] = True
        return is_held[self.doc_id]

    def identity(self) -> dict[str, Any]:
        """Return what decides the content of this store, to record in what is made from it."""
        keys = ("model", "model_hash", "tokenizer_hash", "plan_hash", "dtype", "n_rows", "text")
        return {k: self.attrs.get(k) for k in keys}


def check_tokenizer(store: ActivationStore, tokenizer: Any) -> None:
    """Refuse a tokenizer that would give the tokens of a store wrong texts.

    Raises:
        ConfigError: It is not the one that the store was made with.
    """
    recorded = store.attrs.get("tokenizer_hash")
    if recorded is not None and recorded != tokenizer_hash(tokenizer, like=recorded):
        raise ConfigError(
            f"another tokenizer than that of '{store.path}'",
            got=f"{tokenizer.name_or_path}",
            field="model",
            expected=f"{store.attrs.get('model')}, or a model with the same tokenizer",
        )
