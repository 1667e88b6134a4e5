"""The only module that imports h5py: create, describe, open and verify the workbench's HDF5 files.

Every file carries `schema` and `schema_version`, every dataset `unit` and `axes`; chunks carry a Fletcher-32
checksum. A file is written as `<name>.partial` and renamed when it is whole. Files with external storage,
external or soft links, of another schema or of a newer version are refused.

Activation stores are written in place over many minutes, so their whole structure is allocated first (`preallocate`):
afterwards a write touches the bytes of one chunk and nothing else, and a process killed at any moment leaves
a readable file in which only chunks behind the last committed row can be bad.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from sae_train.errors import FileFormatError, SchemaError, ShapeError
from sae_train.runs import jsonable, now, partial_path, require_file

CHUNK_BYTES = 2**20
SCHEMA_PREFIX = "sae-workbench/"
H5File = h5py.File
H5Group = h5py.Group
H5Dataset = h5py.Dataset


@contextmanager
def create(path: Path, schema: str, version: int, attrs: Mapping[str, Any]) -> Iterator[h5py.File]:
    """Open a new file for writing; it appears under its name only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with h5py.File(partial, "w") as file:
            set_attrs(file, {"schema": SCHEMA_PREFIX + schema, "schema_version": version, "created": now(), **attrs})
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def set_attrs(target: h5py.Group | h5py.Dataset, attrs: Mapping[str, Any]) -> None:
    """Write attributes; lists and dicts become JSON text."""
    for key, value in attrs.items():
        plain = jsonable(value)
        target.attrs[key] = json.dumps(plain) if isinstance(plain, list | dict) or plain is None else plain


def get_attrs(target: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Read attributes back; JSON text becomes lists and dicts again."""
    found: dict[str, Any] = {}
    for key, value in target.attrs.items():
        if isinstance(value, str) and (value[:1] in "[{" or value == "null"):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                pass  # a text that merely begins like JSON stays a text
        found[key] = value.item() if isinstance(value, np.generic) else value
    return found


def write_array(
    group: h5py.Group, name: str, data: np.ndarray | Tensor, *, unit: str, axes: tuple[str, ...]
) -> h5py.Dataset:
    """Write one checksummed array with its unit and the names of its axes."""
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.ndim != len(axes):
        raise ShapeError(f"dataset '{name}' has other axes", got=f"shape {array.shape}", expected=f"axes {axes}")
    kind: Any = h5py.string_dtype() if array.dtype.kind in "UO" else array.dtype
    has_chunks = array.ndim > 0 and array.size > 0
    layout: dict[str, Any] = {"chunks": chunk_shape(array.shape, 8), "fletcher32": True} if has_chunks else {}
    if kind is not array.dtype:
        layout.pop("fletcher32", None)  # variable-length text cannot be checksummed
    dataset = group.create_dataset(
        name, data=array if kind is array.dtype else array.astype(object), dtype=kind, **layout
    )
    dataset.attrs["unit"] = unit
    dataset.attrs["axes"] = list(axes)
    return dataset


def chunk_shape(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    """Return chunks of whole rows of about 1 MiB.

    Example:
        >>> chunk_shape((100_000, 576), 2)
        (910, 576)
    """
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * item_bytes)
    return (max(1, min(shape[0], CHUNK_BYTES // row_bytes)), *shape[1:])


def preallocate(
    group: h5py.Group, name: str, shape: tuple[int, int], dtype: str, *, unit: str, axes: tuple[str, str]
) -> h5py.Dataset:
    """Allocate a chunked, checksummed dataset completely, so that later writes change no file structure."""
    kind = np.dtype(dtype)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk(chunk_shape(shape, kind.itemsize))
    layout.set_fletcher32()
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(kind), space, layout)
    dataset = group[name]
    assert isinstance(dataset, h5py.Dataset)
    dataset.attrs["unit"] = unit
    dataset.attrs["axes"] = list(axes)
    return dataset


def clear_last_chunk(dataset: h5py.Dataset) -> None:
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


@contextmanager
def open_checked(path: Path, schema: str | None, version: int, mode: str = "r") -> Iterator[h5py.File]:
    """Open one of our files.

    Args:
        path: The file.
        schema: What it must hold (`activations`, `latents`); None takes any of ours.
        version: The newest schema version this program reads.
        mode: `r`, or `r+` to continue an unfinished file.

    Raises:
        MissingFileError: The file is not there.
        FileFormatError: It is not HDF5, is damaged, or reaches outside itself.
        SchemaError: It is not ours, of another kind, or newer.
    """
    require_file(path, "HDF5 data")
    try:
        file = h5py.File(path, mode)
    except OSError as error:
        raise FileFormatError(
            f"cannot open '{path}'", got=str(error)[:160], expected="a complete HDF5 file of the workbench"
        ) from error
    with file:
        _check_schema(file, path, schema, version)
        _check_links(file, path)
        yield file


def _check_schema(file: h5py.File, path: Path, schema: str | None, version: int) -> None:
    """Refuse other kinds and newer versions by name."""
    got, got_version = file.attrs.get("schema"), file.attrs.get("schema_version")
    if not isinstance(got, str) or not got.startswith(SCHEMA_PREFIX) or got_version is None:
        raise SchemaError(f"not a workbench file: '{path}'", got=f"schema {got!r}", expected=f"{SCHEMA_PREFIX}…")
    if schema is not None and got != SCHEMA_PREFIX + schema:
        raise SchemaError(f"'{path}' holds something else", got=got, expected=SCHEMA_PREFIX + schema)
    if int(got_version) > version:
        raise SchemaError(
            f"'{path}' was written by a newer version",
            got=f"{got} version {int(got_version)}",
            expected=f"version {version} or older",
            try_="pip install --upgrade sae-workbench",
        )


def _check_links(group: h5py.Group, path: Path) -> None:
    """Refuse soft and external links and external storage, at any depth."""
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise FileFormatError(
                f"'{path}' has a link '{name}'", got=type(link).__name__, expected="datasets inside the file"
            )
        child = group[name]
        if isinstance(child, h5py.Group):
            _check_links(child, path)
        elif isinstance(child, h5py.Dataset) and (child.external or child.is_virtual):
            kind = "external storage" if child.external else "a virtual dataset"
            raise FileFormatError(f"'{path}' keeps '{name}' in another file", got=kind, expected="none")


def dataset_of(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """Return a dataset by name.

    Raises:
        SchemaError: The file lacks it.
    """
    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise SchemaError(f"'{path}' has no dataset '{name}'", got=", ".join(group) or "nothing", expected=name)
    return found


def group_of(parent: h5py.Group, name: str, path: Path) -> h5py.Group:
    """Return a group by name.

    Raises:
        SchemaError: The file lacks it.
    """
    found = parent.get(name)
    if not isinstance(found, h5py.Group):
        raise SchemaError(f"'{path}' has no group '{name}'", got=", ".join(parent) or "nothing", expected=name)
    return found


def read(dataset: h5py.Dataset, rows: slice | np.ndarray | tuple[()] = ()) -> np.ndarray:
    """Read rows of a dataset, checksums included.

    Raises:
        FileFormatError: A chunk's checksum does not fit its bytes.
    """
    try:
        return np.asarray(dataset[rows])
    except OSError as error:
        raise FileFormatError(
            f"'{dataset.file.filename}' is damaged in dataset '{dataset.name}'",
            got=str(error)[:120],
            expected="chunks that fit their checksums",
            try_=f"wb inspect {dataset.file.filename} --verify",
        ) from error


def read_text(dataset: h5py.Dataset) -> list[str]:
    """Read an array of text."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in dataset[()]]


@dataclass(frozen=True)
class DatasetSummary:
    """One dataset of a file as `wb inspect` lists it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    axes: tuple[str, ...]
    stored_bytes: int


def walk_datasets(file: h5py.Group) -> list[h5py.Dataset]:
    """Return every dataset of a file, in name order."""
    found: list[h5py.Dataset] = []
    file.visititems(lambda _name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def summarize(file: h5py.Group) -> list[DatasetSummary]:
    """Describe every dataset of a file without reading it."""
    return [
        DatasetSummary(
            name=str(d.name).lstrip("/"),
            shape=tuple(int(s) for s in d.shape),
            dtype=str(d.attrs.get("encoding", d.dtype)),
            unit=str(d.attrs.get("unit", "")),
            axes=tuple(str(a) for a in d.attrs.get("axes", ())),
            stored_bytes=int(d.id.get_storage_size()),
        )
        for d in walk_datasets(file)
    ]


def damaged_chunks(dataset: h5py.Dataset) -> list[str]:
    """Read every chunk of a dataset; name those whose bytes do not fit their checksum."""
    step = dataset.chunks[0] if dataset.chunks else max(1, dataset.shape[0] if dataset.shape else 1)
    if not dataset.shape:
        return []
    bad = []
    for start in range(0, dataset.shape[0], step):
        try:
            dataset[start : start + step]
        except OSError:
            bad.append(f"{dataset.name}[{start}:{min(start + step, dataset.shape[0])}]")
    return bad


def encode_acts(acts: Tensor, dtype: str) -> np.ndarray:
    """Turn activations into what the file holds; bfloat16 is stored as uint16 bit patterns."""
    if dtype == "bfloat16":
        return acts.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().view(np.uint16)
    return acts.to({"float16": torch.float16, "float32": torch.float32}[dtype]).cpu().numpy()


def decode_acts(stored: np.ndarray, dtype: str) -> Tensor:
    """Turn what the file holds into a float32 tensor.

    Example:
        >>> x = torch.tensor([[1.5, -2.0]])
        >>> bool((decode_acts(encode_acts(x, "bfloat16"), "bfloat16") == x).all())
        True
    """
    if dtype == "bfloat16":
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(np.ascontiguousarray(stored)).float()


STORED_KIND = {"bfloat16": "uint16", "float16": "float16", "float32": "float32"}
