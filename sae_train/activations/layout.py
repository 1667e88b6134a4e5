"""The layout of an activation store: one dataset per hook point, chunk checksums, token fields.

    acts/<hook point>              (rows, d_in), chunks of whole rows of about 1 MiB
    chunk_checksums/<hook point>   (chunks,), 64-bit XXH3 of each chunk's rows, written before the rows count
    token_id, doc_id, position, from_entity   (rows,)

A store that several processes wrote is one file of this layout whose `acts` are joined from part files beside it.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sae_train.activations.encoding import STORED_KIND, encode_acts
from sae_train.errors import ConfigError
from sae_train.run.runs import partial_path
from sae_train.storage import h5, h5_chunks
from sae_train.storage.checksums import array_checksum
from sae_train.text.token_plan import ROW_FIELDS, ROW_KINDS

SCHEMA, PART_SCHEMA = "activations", "activations-part"
VERSION = 1
AXES = ("row", "d_in")
COMMIT_EVERY_ROWS = 16_384
PART = ".part-"  # in the name of a part file, behind that of the store


def write_row_fields(file: h5.H5File, blocks: Callable[[str], Iterable[np.ndarray]], n_rows: int) -> None:
    """Write what lies beside every row; `blocks` returns one of ROW_FIELDS in parts, one of which is in memory."""
    for name in ROW_FIELDS:
        h5_chunks.write_blocks(file, name, blocks(name), n_rows, ROW_KINDS[name], unit="index", axis="row")


def chunk_height(d_in: int, dtype: str) -> int:
    """Return the rows of one chunk."""
    return h5.chunk_shape((2**62, d_in), np.dtype(STORED_KIND[dtype]).itemsize)[0]


def allocate_acts(file: h5.H5File, hook_points: tuple[str, ...], n_rows: int, d_in: int, dtype: str) -> None:
    """Make room for every activation and every checksum."""
    acts, checksums = file.create_group("acts"), file.create_group("chunk_checksums")
    for name in hook_points:
        dataset = h5.preallocate(
            acts,
            name,
            (n_rows, d_in),
            STORED_KIND[dtype],
            unit="activation",
            axes=AXES,
            chunk_rows=chunk_height(d_in, dtype),
        )
        h5.set_attrs(dataset, {"encoding": dtype})
        n_chunks = -(-n_rows // h5_chunks.chunk_rows(dataset))
        h5.preallocate(checksums, name, (n_chunks,), "uint64", unit="xxh3", axes=("chunk",))


class RowWriter:
    """Collects rows and writes them by whole chunks; `commit` makes what was written count.

    Begins at the last whole chunk that was committed. Only the last chunk of the file is ever written in part, so it
    is cleared first: a kill may have left it half written.
    """

    def __init__(self, file: h5.H5File, hook_points: tuple[str, ...], dtype: str) -> None:
        self.file, self.dtype = file, dtype
        path = Path(file.filename)
        acts, checksums = (h5.group_of(file, name, path) for name in ("acts", "chunk_checksums"))
        self.datasets = {name: h5.dataset_of(acts, name, path) for name in hook_points}
        self.checksums = {name: h5.dataset_of(checksums, name, path) for name in hook_points}
        self.chunk = h5_chunks.chunk_rows(self.datasets[hook_points[0]])
        self.n_total = int(self.datasets[hook_points[0]].shape[0])
        self.n_rows = int(h5.get_attrs(file)["rows_committed"]) // self.chunk * self.chunk
        for dataset in self.datasets.values():
            h5_chunks.clear_last_chunk(dataset)
        self.held: dict[str, list[np.ndarray]] = {name: [] for name in hook_points}
        self.n_held = 0

    def add(self, acts: Mapping[str, Float[Tensor, "row d_in"]]) -> None:
        """Take rows of every hook point; commit when enough are held."""
        for name, rows in acts.items():
            self.held[name].append(encode_acts(rows, self.dtype))
        self.n_held += len(next(iter(acts.values())))
        if self.n_held >= max(COMMIT_EVERY_ROWS, self.chunk):
            self.commit()

    def commit(self, *, is_last: bool = False) -> None:
        """Write the held rows, all of them or whole chunks only, then the number that makes them count."""
        n_new = self.n_held if is_last else self.n_held // self.chunk * self.chunk
        if n_new:
            for name, parts in self.held.items():
                rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
                self._write(name, rows[:n_new])
                self.held[name] = [rows[n_new:].copy()]
            self.file.flush()
            self.n_rows += n_new
            self.n_held -= n_new
        self.file.attrs.modify("rows_committed", self.n_rows)
        self.file.flush()

    def _write(self, name: str, rows: np.ndarray) -> None:
        """Write whole chunks (the file's last one may be short) and their checksums."""
        first = self.n_rows // self.chunk
        sums = [array_checksum(rows[start : start + self.chunk]) for start in range(0, len(rows), self.chunk)]
        self.datasets[name][self.n_rows : self.n_rows + len(rows)] = rows
        self.checksums[name][first : first + len(sums)] = np.array(sums, dtype=np.uint64)


def finish(file: h5.H5File) -> None:
    """Mark a file as complete and seal it."""
    file.attrs.modify("complete", True)
    h5.seal(file)


def join_parts(file: h5.H5File, parts: list[tuple[str, int]], attrs: Mapping[str, Any], d_in: int) -> None:
    """Join the activations of part files, given as (file name, rows), and copy their checksums.

    Every part but the last holds whole chunks, so the chunks of the whole are those of the parts.
    """
    dtype, folder = str(attrs["dtype"]), Path(file.filename).parent
    acts, checksums = file.create_group("acts"), file.create_group("chunk_checksums")
    n_rows = sum(n for _, n in parts)
    for name in attrs["hook_points"]:
        sources = [(part, f"acts/{name}", n) for part, n in parts]
        dataset = h5.join_rows(acts, name, (n_rows, d_in), STORED_KIND[dtype], sources)
        h5.describe(dataset, unit="activation", axes=AXES)
        h5.set_attrs(dataset, {"encoding": dtype, "chunk_rows": chunk_height(d_in, dtype)})
        found = []
        for part, _ in parts:
            with h5.open_checked(folder / part, PART_SCHEMA, VERSION) as source:
                sums = h5.group_of(source, "chunk_checksums", folder / part)
                found.append(h5.read(h5.dataset_of(sums, name, folder / part)))
        h5.write_array(checksums, name, np.concatenate(found), unit="xxh3", axes=("chunk",))


def part_files(out: Path) -> list[Path]:
    """Return the part files of a store, finished or not."""
    found = sorted(out.parent.glob(f"{glob.escape(out.name)}{PART}*"))
    return [path for path in found if path.suffix != ".lock"]


def leftovers(out: Path) -> list[Path]:
    """Return what an interrupted run left beside `out`: the store as far as it came, or parts of it."""
    return [path for path in (partial_path(out), *part_files(out)) if path.exists()]


def claim_parts(out: Path, ending: str, *, resume: bool) -> None:
    """Remove part files that an earlier run left beside `out`, or refuse to continue those of another division.

    Args:
        out: The store.
        ending: How the names of this run's parts end.
        resume: Whether what is there is to be continued.

    Raises:
        ConfigError: At resume, the parts are others than this run's.
    """
    found = part_files(out)
    others = [path for path in found if ending not in path.name]
    if resume and others:
        raise ConfigError(
            f"cannot continue '{out}': it is divided into other parts",
            got=others[0].name,
            expected=f"…{ending}: other options or another text, or an earlier version of the workbench, began it",
            try_="`overwrite` to start again",
        )
    for path in [] if resume else found:
        path.unlink()
