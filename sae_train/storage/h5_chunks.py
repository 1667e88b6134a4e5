"""Single chunks of a dataset: how many rows they have, their values as stored, and a last one made anew."""

from __future__ import annotations

import numpy as np

from sae_train.storage import h5


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
    n_values = step * int(np.prod(dataset.shape[1:], dtype=np.int64))
    if mask or len(raw) != n_values * dataset.dtype.itemsize + h5.FLETCHER_BYTES:
        raise h5.damaged(dataset, f"a chunk of {len(raw)} bytes, filters left out {mask}")
    values = raw[: n_values * dataset.dtype.itemsize].view(dataset.dtype)
    return values.reshape(step, *dataset.shape[1:])[:n_rows]
