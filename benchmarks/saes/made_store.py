"""A store of activations that no language model made: what the benchmarks train on where the truth has to be known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from sae_train.activations import layout
from sae_train.storage import h5

HOOK_POINT = "layers.0"
DOCUMENT_ROWS = 128


def write_store(path: Path, blocks: Iterable[Tensor], *, rows: int, d_in: int, dtype: str = "bfloat16") -> None:
    """Write blocks of rows (block, d_in) as the store of one hook point, in made-up documents of 128 rows."""
    attrs = {"model": "synthetic", "hook_points": [HOOK_POINT], "dtype": dtype, "n_rows": rows, "complete": False}
    path.unlink(missing_ok=True)
    with h5.create(path, layout.SCHEMA, layout.VERSION, {**attrs, "rows_committed": 0}) as file:
        number = np.arange(rows, dtype=np.int32)
        fields = {"token_id": number, "doc_id": number // DOCUMENT_ROWS, "position": number % DOCUMENT_ROWS}
        fields["from_entity"] = np.zeros(rows, np.uint8)
        layout.write_row_fields(file, lambda name: [fields[name]], rows)
        layout.allocate_acts(file, (HOOK_POINT,), rows, d_in, dtype)
        writer = layout.RowWriter(file, (HOOK_POINT,), dtype)
        for block in blocks:
            writer.add({HOOK_POINT: block})
        writer.commit(is_last=True)
        layout.finish(file)
