"""Invariants of a finished activation store beyond its checksums; each violation is one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae_train.activations.encoding import STORED_KIND
from sae_train.activations.layout import ROW_FIELDS
from sae_train.storage import h5, h5_contents


def structure_violations(file: h5.H5File, attrs: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with names, shapes, types and counts; without any, `ActivationStore` opens the file.

    Args:
        file: An open activation store.
        attrs: Its root attributes.
    """
    found = {str(d.name).lstrip("/"): d for d in h5_contents.walk_datasets(file)}
    n_rows, dtype = attrs.get("n_rows"), attrs.get("dtype")
    violations = []
    for name in ROW_FIELDS:
        shape = found[name].shape if name in found else None
        if shape != (n_rows,):
            violations.append(f"{name}: shape {shape}, expected ({n_rows},)")
    stored = sorted(name.removeprefix("acts/") for name in found if name.startswith("acts/"))
    promised = sorted(attrs.get("hook_points") or [])
    if stored != promised:
        violations.append(f"hook_points: {', '.join(promised)}, stored are {', '.join(stored) or 'none'}")
    for name in stored:
        violations += _acts_violations(name, found[f"acts/{name}"], n_rows, dtype)
    if attrs.get("complete") and attrs.get("rows_committed") != n_rows:
        violations.append(f"rows_committed: {attrs.get('rows_committed')} in a complete store of {n_rows} rows")
    return violations


def _acts_violations(name: str, dataset: h5.H5Dataset, n_rows: Any, dtype: Any) -> list[str]:
    """Check the activations of one hook point without reading them."""
    violations = []
    if len(dataset.shape) != 2 or dataset.shape[0] != n_rows:
        violations.append(f"acts/{name}: shape {dataset.shape}, expected ({n_rows}, d_in)")
    encoding = h5.get_attr(dataset, "encoding")
    if encoding != dtype:
        violations.append(f"acts/{name}: encoding {encoding}, the store's dtype is {dtype}")
    kind = STORED_KIND.get(str(encoding))
    if kind is not None and dataset.dtype != np.dtype(kind):
        violations.append(f"acts/{name}: stored as {dataset.dtype}, {encoding} is stored as {kind}")
    return violations


def value_violations(file: h5.H5File, path: Path) -> list[str]:
    """Return what is wrong with the values of the row fields."""
    violations = []
    for name in ROW_FIELDS:
        values = h5.read(h5.dataset_of(file, name, path))
        most = 1 if name == "from_entity" else np.inf
        n_bad = int(((values < 0) | (values > most)).sum())
        if n_bad:
            rule = "0 or 1" if name == "from_entity" else "0 or more"
            violations.append(f"{name}: {n_bad:,} of {len(values):,} rows out of range, expected {rule}")
    return violations


def finite_violations(statistics: Mapping[str, Any]) -> list[str]:
    """Return which hook points have rows with NaN or Inf, given their statistics."""
    counts = {name: (s["n_nonfinite_rows"], s["n_rows"]) for name, s in statistics.items()}
    return [f"acts/{name}: {bad:,} of {n:,} rows with NaN or Inf" for name, (bad, n) in counts.items() if bad]
