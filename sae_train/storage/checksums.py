"""Checksums of content, independent of how a file stores it. Imports no storage library.

HDF5's own Fletcher-32 protects the bytes of a chunk, but neither the index that says where the chunk lies nor an
attribute. These checksums are taken of the values: a chunk lost, swapped or read in another byte order differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash

from sae_train.run.runs import jsonable


def array_checksum(array: np.ndarray) -> int:
    """Return the 64-bit XXH3 of an array's type, shape and bytes in little-endian order; text counts as UTF-8.

    Example:
        >>> a = np.array([1, 2], dtype="<i4")
        >>> array_checksum(a) == array_checksum(a.astype(">i4")), array_checksum(a) == array_checksum(a[::-1])
        (True, False)
    """
    if array.dtype.kind in "OSU":
        texts = [v.decode("utf-8", "surrogatepass") if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
        return xxhash.xxh3_64_intdigest(json.dumps([array.shape, texts]).encode())
    checksum = ArrayChecksum(array.dtype, array.shape)
    checksum.add(array)
    return checksum.value()


class ArrayChecksum:
    """The checksum of an array of numbers that comes in parts: `array_checksum` of the whole.

    Args:
        dtype: Type of the whole.
        shape: Its shape.

    Example:
        >>> whole = ArrayChecksum(np.dtype("<i4"), (2,))
        >>> whole.add(np.array([1], dtype="<i4")), whole.add(np.array([2], dtype="<i4"))
        (None, None)
        >>> whole.value() == array_checksum(np.array([1, 2], dtype="<i4"))
        True
    """

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self._dtype = dtype.newbyteorder("<")
        self._digest = xxhash.xxh3_64(f"{self._dtype.str}{shape}".encode())

    def add(self, part: np.ndarray) -> None:
        """Take the next values, in the order in which they lie in the whole."""
        self._digest.update(np.ascontiguousarray(part, dtype=self._dtype).reshape(-1).view(np.uint8).data)

    def value(self) -> int:
        """Return the checksum of what was taken."""
        return self._digest.intdigest()


def attributes_checksum(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the SHA-256 over the attributes of every object of a file, by the object's name."""
    text = json.dumps(jsonable(attributes), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
