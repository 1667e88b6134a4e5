"""Chunks of datasets in a remote file, fetched many at a time; those of a joined dataset from the files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np

from sae_train.storage import h5, h5_chunks
from sae_train.storage.remote import RemoteFile

FETCHED_AT_ONCE = 32  # chunks of about 1 MiB


class RemoteChunks:
    """Fetches chunks by their place in the file; HDF5 itself only says where they are.

    Args:
        file: The file.
        part_schema, version: What the files hold that a joined dataset lies in.
    """

    def __init__(self, file: RemoteFile, part_schema: str, version: int) -> None:
        self._file, self._expected = file, (part_schema, version)
        self._stack = ExitStack()
        self._opened: dict[str, tuple[RemoteFile, h5.H5File]] = {}
        self._parts: dict[str, list[h5_chunks.Part]] = {}

    def __enter__(self) -> RemoteChunks:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def chunks(self, dataset: h5.H5Dataset, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield chunks by number, in the order given.

        Raises:
            FileFormatError: The bytes are no chunk of the dataset.
            MissingFileError: The file can no longer be read, or a part is missing.
        """
        for start in range(0, len(numbers), FETCHED_AT_ONCE):
            wanted = list(numbers[start : start + FETCHED_AT_ONCE])
            placed = [self._placed(dataset, number) for number in wanted]
            found: dict[int, np.ndarray] = {}
            for file in {id(file): file for file, _, _ in placed}.values():
                here = [i for i, place in enumerate(placed) if place[0] is file]
                raws = file.parts([h5_chunks.chunk_place(*placed[i][1:]) for i in here])
                for i, raw in zip(here, raws, strict=True):
                    found[i] = h5_chunks.chunk_values(*placed[i][1:], np.frombuffer(raw, dtype=np.uint8).copy())
            yield from ((number, found[i]) for i, number in enumerate(wanted))

    def _placed(self, dataset: h5.H5Dataset, number: int) -> tuple[RemoteFile, h5.H5Dataset, int]:
        """Return the file, the dataset in it and the number there of a chunk."""
        if not dataset.is_virtual:
            return self._file, dataset, number
        parts = self._parts.setdefault(str(dataset.name), h5_chunks.parts_of(dataset))
        row = number * h5_chunks.chunk_rows(dataset)
        part = parts[int(np.searchsorted([p.first_row for p in parts], row, "right")) - 1]
        if part.file_name not in self._opened:
            file = self._file.with_name(part.file_name)
            self._opened[part.file_name] = file, self._stack.enter_context(h5.open_checked(file, *self._expected))
        file, opened = self._opened[part.file_name]
        inside = h5.dataset_of(opened, part.dataset, file)
        return file, inside, (row - part.first_row) // h5_chunks.chunk_rows(inside)
