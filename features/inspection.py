"""What `wb inspect` says about a file: structure and provenance of any of ours, statistics where there are rows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from features.store import SCHEMA as LATENTS
from features.store import VERSION as LATENTS_VERSION
from sae_train import h5
from sae_train.activations.store import ActivationStore, hook_point_stats
from sae_train.activations.writer import SCHEMA as ACTIVATIONS
from sae_train.activations.writer import VERSION as ACTIVATIONS_VERSION
from sae_train.errors import SchemaError

KNOWN = {ACTIVATIONS: ACTIVATIONS_VERSION, LATENTS: LATENTS_VERSION}


def inspect_file(path: Path, *, verify: bool) -> dict[str, Any]:
    """Describe a file.

    Returns:
        `file, schema, schema_version, attrs, datasets, statistics, verified, damaged`; `statistics` by hook point
        for a finished activation store, `verified` the number of datasets read whole, or None.

    Raises:
        FileFormatError, SchemaError: Not one of ours, or newer.
    """
    with h5.open_checked(path, None, max(KNOWN.values())) as file:
        attrs = h5.get_attrs(file)
        kind = str(attrs.pop("schema")).removeprefix(h5.SCHEMA_PREFIX)
        version = int(attrs.pop("schema_version"))
        if kind not in KNOWN or version > KNOWN[kind]:
            raise SchemaError(
                f"cannot describe '{path}'",
                got=f"{kind} version {version}",
                expected=", ".join(f"{k} up to version {v}" for k, v in KNOWN.items()),
            )
        datasets = [asdict(d) for d in h5.summarize(file)]
        damaged = [bad for d in h5.walk_datasets(file) for bad in h5.damaged_chunks(d)] if verify else []
    statistics = {}
    if kind == ACTIVATIONS and attrs.get("complete") and not damaged:
        with ActivationStore(path) as store:
            statistics = {name: asdict(hook_point_stats(store, name)) for name in store.hook_points}
    return {
        "file": str(path),
        "schema": kind,
        "schema_version": version,
        "attrs": attrs,
        "datasets": datasets,
        "statistics": statistics,
        "verified": len(datasets) if verify else None,
        "damaged": damaged,
    }
