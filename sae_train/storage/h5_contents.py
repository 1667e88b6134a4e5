"""List the contents of one of our HDF5 files: describe every dataset, read every chunk."""

from __future__ import annotations

from dataclasses import dataclass

from sae_train.errors import FileFormatError
from sae_train.storage import h5, h5_chunks


@dataclass(frozen=True)
class DatasetSummary:
    """One dataset of a file as `wb inspect` lists it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    axes: tuple[str, ...]
    stored_bytes: int


def walk_datasets(file: h5.H5Group) -> list[h5.H5Dataset]:
    """Return every dataset of a file, in name order."""
    found: list[h5.H5Dataset] = []
    file.visititems(lambda _name, item: found.append(item) if isinstance(item, h5.H5Dataset) else None)
    return found


def summarize(file: h5.H5Group) -> list[DatasetSummary]:
    """Describe every dataset of a file without reading it."""
    return [
        DatasetSummary(
            name=str(d.name).lstrip("/"),
            shape=tuple(int(s) for s in d.shape),
            dtype=str(h5.get_attr(d, "encoding", d.dtype)),
            unit=str(h5.get_attr(d, "unit", "")),
            axes=tuple(str(a) for a in h5.get_attr(d, "axes", ())),
            stored_bytes=int(d.id.get_storage_size()),
        )
        for d in walk_datasets(file)
    ]


def damaged_chunks(dataset: h5.H5Dataset) -> list[str]:
    """Read every chunk of a dataset; name those whose bytes do not fit HDF5's checksum of them."""
    if not dataset.shape:
        return []
    step = h5_chunks.chunk_rows(dataset)
    bad = []
    for start in range(0, dataset.shape[0], step):
        try:
            dataset[start : start + step]
        except OSError:
            bad.append(f"{dataset.name}[{start}:{min(start + step, dataset.shape[0])}]")
    if not bad and h5.CHECKSUM in dataset.attrs:
        try:
            h5.read(dataset)
        except FileFormatError:
            bad.append(str(dataset.name))
    return bad
