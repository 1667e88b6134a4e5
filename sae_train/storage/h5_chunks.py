"""Datasets by parts: written block by block, chunks read as they are stored, a last one made anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sae_train.storage import h5
from sae_train.storage.checksums import ArrayChecksum


def write_blocks(
    group: h5.H5Group, name: str, blocks: Iterable[np.ndarray], n: int, dtype: np.dtype, *, unit: str, axis: str
) -> None:
    """Write an array of numbers with one axis, of length n, that comes in parts: the dataset of `write_array`."""
    layout: dict[str, Any] = {"chunks": h5.chunk_shape((n,), 8), "fletcher32": True} if n else {}
    dataset = group.create_dataset(name, (n,), dtype, **layout)
    checksum, first = ArrayChecksum(dtype, (n,)), 0
    for block in blocks:
        dataset[first : first + len(block)] = block
        checksum.add(block)
        first += len(block)
    assert first == n, (name, first, n)
    h5.describe(dataset, unit=unit, axes=(axis,))
    h5.set_attrs(dataset, {h5.CHECKSUM: f"{checksum.value():016x}"})


def clear_last_chunk(dataset: h5.H5Dataset) -> None:
    """Zero the last chunk of a preallocated dataset without reading it, where it reaches beyond the last row.

    A write that covers only a part of a chunk reads it first, which fails if a kill left it half written; whole
    chunks are overwritten unread. Zeros have the checksum zero, and the chunk keeps its place and size.
    """
    assert dataset.chunks is not None, dataset.name
    step = dataset.chunks[0]
    first = (dataset.shape[0] - 1) // step * step
    if first + step > dataset.shape[0]:
        n_bytes = int(np.prod(dataset.chunks, dtype=np.int64)) * dataset.dtype.itemsize
        dataset.id.write_direct_chunk((first, 0), bytes(n_bytes + 4))


def chunk_rows(dataset: h5.H5Dataset) -> int:
    """Return the rows of one chunk; a virtual dataset says it in an attribute."""
    if dataset.chunks:
        return int(dataset.chunks[0])
    return int(h5.get_attr(dataset, "chunk_rows", max(1, dataset.shape[0] if dataset.shape else 1)))


def read_chunk(dataset: h5.H5Dataset, index: int) -> np.ndarray:
    """Read the rows of one chunk as they are stored, checksums unchecked where the chunk is one piece of the file.

    Whoever calls this holds the checksum of the content and compares it: one pass over the bytes in the place of two.
    """
    step = chunk_rows(dataset)
    first = index * step
    n_rows = min(step, dataset.shape[0] - first)
    try:
        if dataset.is_virtual or dataset.dtype.byteorder == ">":
            return np.asarray(dataset[first : first + n_rows])
        where = (first, *(0 for _ in dataset.shape[1:]))
        raw = np.empty(dataset.id.get_chunk_info_by_coord(where).size, dtype=np.uint8)
        mask, _ = dataset.id.read_direct_chunk(where, out=raw)
    except h5.UNREADABLE as error:
        raise h5.damaged(dataset, str(error)[:120]) from error
    return chunk_values(dataset, index, raw, mask)


def chunk_values(dataset: h5.H5Dataset, index: int, raw: np.ndarray, mask: int = 0) -> np.ndarray:
    """Return the rows in the bytes of a chunk, (bytes,) uint8; `mask` says which filters they lack.

    Raises:
        FileFormatError: They are no whole chunk.
    """
    step = chunk_rows(dataset)
    n_values = step * int(np.prod(dataset.shape[1:], dtype=np.int64))
    if mask or len(raw) != n_values * dataset.dtype.itemsize + h5.FLETCHER_BYTES:
        raise h5.damaged(dataset, f"a chunk of {len(raw)} bytes, filters left out {mask}")
    values = raw[: n_values * dataset.dtype.itemsize].view(dataset.dtype)
    return values.reshape(step, *dataset.shape[1:])[: dataset.shape[0] - index * step]


def chunk_place(dataset: h5.H5Dataset, index: int) -> tuple[int, int]:
    """Return where the bytes of a chunk lie in its file: the first one, and how many there are.

    Raises:
        FileFormatError: The file's index is damaged, or the chunk was stored by other means than ours.
    """
    try:
        info = dataset.id.get_chunk_info_by_coord((index * chunk_rows(dataset), *(0 for _ in dataset.shape[1:])))
    except h5.UNREADABLE as error:
        raise h5.damaged(dataset, str(error)[:120]) from error
    if info.byte_offset is None or info.filter_mask or dataset.dtype.byteorder == ">":
        raise h5.damaged(dataset, f"no chunk {index} in one piece")
    return int(info.byte_offset), int(info.size)


class Part(NamedTuple):
    """Consecutive rows of a virtual dataset.

    Attributes:
        first_row: Of the virtual dataset.
        file_name: Of the file that holds them, beside its own.
        dataset: Name of the dataset in it.
    """

    first_row: int
    file_name: str
    dataset: str


def parts_of(dataset: h5.H5Dataset) -> list[Part]:
    """Return the parts of a virtual dataset in order."""
    sources = dataset.virtual_sources()
    return sorted(Part(int(s.vspace.get_select_bounds()[0][0]), s.file_name, s.dset_name) for s in sources)
