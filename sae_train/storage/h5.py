"""The only module that imports h5py: create, describe, open and verify the workbench's HDF5 files.

Every file carries `schema` and `schema_version`, every dataset `unit` and `axes`; chunks carry a Fletcher-32
checksum, arrays a checksum of their content, and a finished file a seal over all attributes. A file is written as
`<name>.partial` and renamed when it is whole. Files with external storage, external or soft links, of another schema
or of a newer version are refused; virtual datasets may point to files beside theirs, where the caller allows it.

Activation stores are written in place over many minutes, so their whole structure is allocated first (`preallocate`):
afterwards a write touches the bytes of one chunk and nothing else, and a process killed at any moment leaves
a readable file in which only chunks behind the last committed row can be bad.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from torch import Tensor

from sae_train.errors import BusyError, FileFormatError, MissingFileError, SchemaError, ShapeError
from sae_train.run.locks import NO_LOCKS, NOT_ALLOWED
from sae_train.run.runs import jsonable, now, partial_path, require_file
from sae_train.storage.checksums import array_checksum, attributes_checksum
from sae_train.storage.remote import RemoteFile

T = TypeVar("T")
CHUNK_BYTES = 2**20
SCHEMA_PREFIX = "sae-workbench/"
FLETCHER_BYTES = 4  # that HDF5 puts behind a chunk
SEAL = "attributes_sha256"
CHECKSUM = "content_xxh3"
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)  # h5py's, on a damaged file
H5File = h5py.File
H5Group = h5py.Group
H5Dataset = h5py.Dataset


def open_file(path: Path | RemoteFile, mode: str) -> h5py.File:
    """Open a file as HDF5 does, with its own lock where the file system has locks.

    HDF5 locks what it has open: many may read, one may write and nobody reads then. `HDF5_USE_FILE_LOCKING=FALSE` turns
    that off.

    Raises:
        BusyError: Another process has it open for writing, or is reading what is to be written.
        MissingFileError: It may not be read.
        FileFormatError: It is not HDF5.
    """
    try:
        try:
            return h5py.File(path.stream() if isinstance(path, RemoteFile) else path, mode)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            # A file system without locks; a second writer is kept away by the output's own lock.
            return h5py.File(path, mode, locking=False)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
            raise BusyError(
                f"another process has '{path}' open",
                got="HDF5's lock is held",
                expected="no writer, and no reader of what is to be written",
                try_="again when it is done",
            ) from error
        if mode == "w":
            raise  # a full disk, or a folder that cannot be written to: said by whoever claimed it
        if error.errno in NOT_ALLOWED:
            raise MissingFileError(f"cannot read '{path}'", got=str(error)[:160], expected="a readable file") from error
        raise FileFormatError(
            f"cannot open '{path}'", got=str(error)[:160], expected="a complete HDF5 file of the workbench"
        ) from error


@contextmanager
def create(path: Path, schema: str, version: int, attrs: Mapping[str, Any]) -> Iterator[h5py.File]:
    """Open a new file for writing; it appears under its name only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with open_file(partial, "w") as file:
            set_attrs(file, {"schema": SCHEMA_PREFIX + schema, "schema_version": version, "created": now(), **attrs})
            yield file
            seal(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def set_attrs(target: h5py.Group | h5py.Dataset, attrs: Mapping[str, Any]) -> None:
    """Write attributes; lists and dicts become JSON text.

    Text has a fixed length: HDF5 keeps text of variable length in a heap without checksums, and reading a damaged one
    may never end.
    """
    for key, value in attrs.items():
        plain = jsonable(value)
        if isinstance(plain, list | dict) or plain is None:
            plain = json.dumps(plain)
        if isinstance(plain, str):
            data = plain.encode("utf-8", "surrogatepass")
            target.attrs.create(key, np.bytes_(data), dtype=h5py.string_dtype("utf-8", max(1, len(data))))
        else:
            target.attrs[key] = plain


def get_attr(target: h5py.Group | h5py.Dataset, key: str, default: Any = None) -> Any:
    """Read one attribute back; JSON text becomes lists and dicts again."""
    if key not in target.attrs:
        return default
    value: Any = target.attrs[key]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogatepass")
    if isinstance(value, str) and (value[:1] in ("[", "{") or value == "null"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            pass  # a text that merely begins like JSON stays a text
    return value.item() if isinstance(value, np.generic) else value


def get_attrs(target: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Read all attributes back."""
    return {key: get_attr(target, key) for key in target.attrs}


def all_attributes(file: h5py.File) -> dict[str, dict[str, Any]]:
    """Return the attributes of every object of a file by its name, the seal left out."""
    found = {"/": {k: v for k, v in get_attrs(file).items() if k != SEAL}}
    file.visititems(lambda name, item: found.__setitem__(name, get_attrs(item)))
    return found


def seal(file: h5py.File) -> None:
    """Record the checksum of all attributes; the last thing written into a file."""
    set_attrs(file, {SEAL: attributes_checksum(all_attributes(file))})


def write_array(
    group: h5py.Group, name: str, data: np.ndarray | Tensor, *, unit: str, axes: tuple[str, ...]
) -> h5py.Dataset:
    """Write one checksummed array with its unit and the names of its axes."""
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if array.ndim != len(axes):
        raise ShapeError(f"dataset '{name}' has other axes", got=f"shape {array.shape}", expected=f"axes {axes}")
    stored = array
    if array.dtype.kind in "UO":
        texts = [str(v).encode("utf-8", "surrogatepass") for v in array.ravel().tolist()]
        kind = h5py.string_dtype("utf-8", max([1, *map(len, texts)]))
        stored = np.array(texts, dtype=kind).reshape(array.shape)
    has_chunks = array.ndim > 0 and array.size > 0
    layout: dict[str, Any] = {"chunks": chunk_shape(array.shape, 8), "fletcher32": True} if has_chunks else {}
    dataset = group.create_dataset(name, data=stored, dtype=stored.dtype, **layout)
    describe(dataset, unit=unit, axes=axes)
    set_attrs(dataset, {CHECKSUM: f"{array_checksum(array):016x}"})
    return dataset


def describe(dataset: h5py.Dataset, *, unit: str, axes: tuple[str, ...]) -> None:
    """Say what the numbers of a dataset are."""
    set_attrs(dataset, {"unit": unit, "axes": axes})


def chunk_shape(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    """Return chunks of whole rows of about 1 MiB.

    Example:
        >>> chunk_shape((100_000, 576), 2)
        (910, 576)
    """
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * item_bytes)
    return (max(1, min(shape[0], CHUNK_BYTES // row_bytes)), *shape[1:])


def preallocate(
    group: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    *,
    unit: str,
    axes: tuple[str, ...],
    chunk_rows: int = 0,
) -> h5py.Dataset:
    """Allocate a dataset completely, so that later writes change no file structure.

    With `chunk_rows` it is chunked by so many whole rows and checksummed, else it lies in one piece.
    """
    kind = np.dtype(dtype)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunk_rows:
        layout.set_chunk((min(chunk_rows, shape[0]), *shape[1:]))
        layout.set_fletcher32()
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(kind), space, layout)
    dataset = group[name]
    assert isinstance(dataset, h5py.Dataset)
    describe(dataset, unit=unit, axes=axes)
    return dataset


def join_rows(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str, sources: list[tuple[str, str, int]]
) -> h5py.Dataset:
    """Lay datasets of several files end to end as one virtual dataset.

    Args:
        group: Where the dataset goes.
        name: Its name.
        shape: Its shape; the sources' rows add up to it.
        dtype: Stored type of all of them.
        sources: (file name beside this file, dataset in it, number of rows), in order.
    """
    layout = h5py.VirtualLayout(shape, np.dtype(dtype))
    start = 0
    for file_name, inside, n_rows in sources:
        layout[start : start + n_rows] = h5py.VirtualSource(file_name, inside, (n_rows, *shape[1:]))
        start += n_rows
    assert start == shape[0], (start, shape)
    return group.create_virtual_dataset(name, layout)


@contextmanager
def open_checked(
    path: Path | RemoteFile, schema: str | None, version: int, mode: str = "r", *, may_join: bool = False
) -> Iterator[h5py.File]:
    """Open one of our files.

    Args:
        path: The file.
        schema: What it must hold (`activations`, `latents`); None takes any of ours.
        version: The newest schema version this program reads.
        mode: `r`, or `r+` to continue an unfinished file.
        may_join: Virtual datasets over files beside this one are fine.

    Raises:
        MissingFileError: The file is not there, or may not be read.
        BusyError: Another process is writing it.
        FileFormatError: It is not HDF5, is damaged, or reaches outside itself.
        SchemaError: It is not ours, of another kind, or newer.
    """
    path.require() if isinstance(path, RemoteFile) else require_file(path, "HDF5 data")
    with open_file(path, mode) as file:
        try:
            _check_schema(file, path, schema, version)
            _check_links(file, path, may_join=may_join)
            if mode == "r":
                _check_seal(file, path)
        except UNREADABLE as error:
            raise FileFormatError(
                f"'{path}' is damaged", got=str(error)[:160], expected="a complete HDF5 file of the workbench"
            ) from error
        yield file


@contextmanager
def understood(path: Path | RemoteFile) -> Iterator[None]:
    """Have a file that lacks a part, or has it of another kind, end in a SchemaError about the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SchemaError(
            f"'{path}' is not laid out as its schema says",
            got=f"{type(error).__name__}: {error}"[:160],
            expected="a file that the workbench wrote",
        ) from error


def _check_schema(file: h5py.File, path: Path | RemoteFile, schema: str | None, version: int) -> None:
    """Refuse other kinds and newer versions by name."""
    got, got_version = get_attr(file, "schema"), get_attr(file, "schema_version")
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


def _check_links(group: h5py.Group, path: Path | RemoteFile, *, may_join: bool) -> None:
    """Refuse soft and external links, external storage, foreign virtual sources and absurd sizes, at any depth."""
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise FileFormatError(
                f"'{path}' has a link '{name}'", got=type(link).__name__, expected="datasets inside the file"
            )
        child = group[name]
        if isinstance(child, h5py.Group):
            _check_links(child, path, may_join=may_join)
        elif isinstance(child, h5py.Dataset):
            _check_storage(child, path, may_join=may_join)


def _check_storage(dataset: h5py.Dataset, path: Path | RemoteFile, *, may_join: bool) -> None:
    """Refuse a dataset that lies elsewhere, or that claims more than the file can hold."""
    name = str(dataset.name)
    if dataset.external or (dataset.is_virtual and not may_join):
        kind = "external storage" if dataset.external else "a virtual dataset"
        raise FileFormatError(f"'{path}' keeps '{name}' in another file", got=kind, expected="none")
    if dataset.is_virtual:
        for source in {s.file_name for s in dataset.virtual_sources()}:
            if Path(source).name != source:
                raise FileFormatError(
                    f"'{path}' keeps '{name}' in another folder", got=source, expected="a file beside it"
                )
            if not path.with_name(source).is_file():
                raise MissingFileError(f"'{path}' lacks a part", got=f"no {source} beside it", expected="all parts")
    elif dataset.size and dataset.size * dataset.dtype.itemsize > path.stat().st_size:
        raise FileFormatError(
            f"'{path}' claims more than it holds in '{name}'",
            got=f"shape {dataset.shape}, {dataset.size * dataset.dtype.itemsize:,} bytes",
            expected=f"at most the {path.stat().st_size:,} bytes of the file",
        )


def _check_seal(file: h5py.File, path: Path | RemoteFile) -> None:
    """Refuse attributes that are not what was written; an unfinished file has no seal yet."""
    recorded = get_attr(file, SEAL)
    if recorded is None and not get_attr(file, "complete", True):
        return
    found = attributes_checksum(all_attributes(file))
    if found != recorded:
        raise FileFormatError(
            f"'{path}' is damaged in its attributes",
            got=f"checksum {found[:16]}…",
            expected=f"{str(recorded)[:16]}…",
            try_="write the file anew, or take it from where it was copied",
        )


def dataset_of(group: h5py.Group, name: str, path: Path | RemoteFile) -> h5py.Dataset:
    """Return a dataset by name.

    Raises:
        SchemaError: The file lacks it.
    """
    return _member(group, name, path, h5py.Dataset)


def group_of(parent: h5py.Group, name: str, path: Path | RemoteFile) -> h5py.Group:
    """Return a group by name.

    Raises:
        SchemaError: The file lacks it.
    """
    return _member(parent, name, path, h5py.Group)


def _member(parent: h5py.Group, name: str, path: Path | RemoteFile, kind: type[T]) -> T:
    """Return a member of a group that is a dataset, or a group."""
    found = parent.get(name)
    if not isinstance(found, kind):
        raise SchemaError(
            f"'{path}' has no {kind.__name__.lower()} '{name}'", got=", ".join(parent) or "nothing", expected=name
        )
    return found


def read(dataset: h5py.Dataset) -> np.ndarray:
    """Read a whole array and check it against the checksum of its content.

    Raises:
        FileFormatError: It does not fit.
    """
    try:
        found = np.asarray(dataset[()])
    except UNREADABLE as error:
        raise damaged(dataset, str(error)[:120]) from error
    recorded = get_attr(dataset, CHECKSUM)
    if recorded is not None and f"{array_checksum(found):016x}" != recorded:
        raise damaged(dataset, f"checksum {array_checksum(found):016x}")
    return found


def damaged(dataset: h5py.Dataset, got: str) -> FileFormatError:
    """Return the error that says which dataset is damaged."""
    return FileFormatError(
        f"'{dataset.file.filename}' is damaged in dataset '{dataset.name}'",
        got=got,
        expected="content that fits its checksum",
        try_=f"wb inspect {dataset.file.filename} --verify",
    )


def read_text(dataset: h5py.Dataset) -> list[str]:
    """Read an array of text."""
    return [v.decode("utf-8", "surrogatepass") if isinstance(v, bytes) else str(v) for v in read(dataset)]
