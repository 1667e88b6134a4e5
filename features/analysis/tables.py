"""Small tables in HDF5: lists of flat rows, one JSON string per row. Per-latent values are arrays instead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae_train.run.runs import jsonable
from sae_train.storage import h5

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def rows_of(found: Sequence[Any]) -> list[Row]:
    """Return dataclass instances as rows of a table; NaN and Inf become None, as they are read back.

    Example:
        >>> from sae_train.intervals import Interval
        >>> rows_of([Interval(0.5, 0.25, float("nan"))])
        [{'value': 0.5, 'low': 0.25, 'high': None}]
    """
    return [jsonable(row) for row in found]


def write_tables(group: h5.H5Group, tables: Mapping[str, Sequence[Row]]) -> None:
    """Write tables into the subgroup `tables`."""
    inside = group.create_group("tables")
    for name, rows in tables.items():
        texts = np.array([json.dumps(jsonable(row), ensure_ascii=False) for row in rows], dtype=object)
        h5.write_array(inside, name, texts, unit="json", axes=("row",))


def read_tables(group: h5.H5Group, path: Path) -> Tables:
    """Read the tables of a group back.

    Raises:
        SchemaError: The group has no tables.
    """
    inside = h5.group_of(group, "tables", path)
    names = [str(name) for name in inside]
    return {name: [json.loads(t) for t in h5.read_text(h5.dataset_of(inside, name, path))] for name in names}
