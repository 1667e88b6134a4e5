"""What `wb inspect` says about a file: structure and provenance of any of ours, statistics where there are rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from features.invariants import finite_violations, structure_violations, value_violations
from features.name_acts import SCHEMA as NAMES
from features.name_acts import VERSION as NAMES_VERSION
from features.store import SCHEMA as LATENTS
from features.store import VERSION as LATENTS_VERSION
from features.store import load_analysis
from sae_train import h5, h5_contents
from sae_train.activations.comparison import common_hook_points, compare_stores
from sae_train.activations.layout import SCHEMA as ACTIVATIONS
from sae_train.activations.layout import VERSION as ACTIVATIONS_VERSION
from sae_train.activations.row_statistics import hook_point_stats
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError, FileFormatError, SchemaError
from sae_train.lm.models import tokenizer_hash

KNOWN = {ACTIVATIONS: ACTIVATIONS_VERSION, LATENTS: LATENTS_VERSION, NAMES: NAMES_VERSION}
_NOT_CONTENT = ("created", "schema", "schema_version", h5.SEAL)  # differ between two files that hold the same


def inspect_file(path: Path, *, verify: bool, against: Path | None = None, tokenizer: Any = None) -> dict[str, Any]:
    """Describe a file.

    Args:
        path: Any of our HDF5 files.
        verify: Read every chunk, check its checksum, and check what must hold in an activation store.
        against: Another activation store to compare this one with.
        tokenizer: Of the store's model; gives the top tokens their text.

    Returns:
        `file, schema, schema_version, attrs, datasets, counts, statistics, latents, comparison, verified, damaged,
        violations`. `statistics` by hook point for a finished activation store (`HookPointStats`), `latents` one entry
        per SAE of an analysis, `comparison` None without `against`, `verified` the number of datasets read whole, or
        None.

    Raises:
        FileFormatError, SchemaError: Not one of ours, newer, or, where nothing is verified, damaged.
        ConfigError: Something other than an activation store is to be compared, or the tokenizer is another one.
    """
    with h5.open_checked(path, None, max(KNOWN.values()), may_join=True) as file:
        attrs = h5.get_attrs(file)
        kind = str(attrs.pop("schema")).removeprefix(h5.SCHEMA_PREFIX)
        version = int(attrs.pop("schema_version"))
        _check_kind(path, kind, version, against)
        datasets = [asdict(d) for d in h5_contents.summarize(file)]
        damaged = (
            [bad for d in h5_contents.walk_datasets(file) for bad in h5_contents.damaged_chunks(d)] if verify else []
        )
        violations = structure_violations(file, attrs) if verify and kind == ACTIVATIONS else []
        is_readable = not damaged and not violations
        if verify and kind == ACTIVATIONS and is_readable:
            violations += value_violations(file, path)
    found: dict[str, Any] = {"counts": {}, "statistics": {}, "latents": [], "comparison": None}
    if is_readable:
        try:
            found |= _contents(path, kind, attrs, against, tokenizer)
        except FileFormatError as error:
            if not verify:
                raise
            damaged = _damaged_places(path) or [f"{error.what}: {error.got}"]
    return {
        "file": str(path),
        "schema": kind,
        "schema_version": version,
        "attrs": attrs,
        "datasets": datasets,
        **found,
        "verified": len(datasets) if verify else None,
        "damaged": damaged,
        "violations": violations + (finite_violations(found["statistics"]) if verify else []),
    }


def _damaged_places(path: Path) -> list[str]:
    """Name the chunks whose content is not what was written though HDF5 finds nothing wrong with their bytes."""
    try:
        with ActivationStore(path) as store:
            return store.damaged_chunks()
    except FileFormatError:
        return []


def has_problems(found: Mapping[str, Any]) -> bool:
    """Tell whether a verified file is damaged or breaks a rule."""
    return bool(found["damaged"] or found["violations"])


def _check_kind(path: Path, kind: str, version: int, against: Path | None) -> None:
    """Refuse kinds and versions nobody here can describe, and comparisons of what has no rows."""
    if kind not in KNOWN or version > KNOWN[kind]:
        raise SchemaError(
            f"cannot describe '{path}'",
            got=f"{kind} version {version}",
            expected=", ".join(f"{k} up to version {v}" for k, v in KNOWN.items()),
        )
    if against is not None and kind != ACTIVATIONS:
        raise ConfigError(
            f"cannot compare '{path}' with another file",
            got=f"{kind} (`against` {against})",
            expected="two activation stores",
        )


def _contents(path: Path, kind: str, attrs: Mapping[str, Any], against: Path | None, tokenizer: Any) -> dict[str, Any]:
    """Return what only the contents of the file tell."""
    if kind == LATENTS:
        return _latents(path)
    if kind == NAMES:
        return {}
    if not attrs.get("complete") and against is None:
        return {}
    with ActivationStore(path) as store:
        if tokenizer is not None:
            _check_tokenizer(store, tokenizer)
        comparison = _comparison(store, against) if against is not None else None
        statistics = {name: asdict(hook_point_stats(store, name)) for name in store.hook_points}
        counts = _counts(store)
    if tokenizer is not None:
        for token in (t for each in statistics.values() for t in each["top_tokens"]):
            token["text"] = tokenizer.decode([token["token_id"]])
    return {"counts": counts, "statistics": statistics, "comparison": comparison}


def _counts(store: ActivationStore) -> dict[str, Any]:
    """Count what the rows belong to; `tokens` are those the model read, None where the file does not say."""
    return {
        "rows": store.n_rows,
        "tokens": store.attrs.get("n_tokens"),
        "distinct_tokens": len(np.unique(store.row_field("token_id"))),
        "documents": len(np.unique(store.doc_id)),
        "entity_rows": int((store.row_field("from_entity") == 1).sum()),
    }


def _check_tokenizer(store: ActivationStore, tokenizer: Any) -> None:
    """Refuse a tokenizer that would give the tokens wrong texts."""
    recorded = store.attrs.get("tokenizer_hash")
    if recorded is not None and recorded != tokenizer_hash(tokenizer):
        raise ConfigError(
            f"another tokenizer than that of '{store.path}'",
            got=f"{tokenizer.name_or_path}",
            field="model",
            expected=f"{store.attrs.get('model')}, or a model with the same vocabulary",
        )


def _comparison(store: ActivationStore, against: Path) -> dict[str, Any]:
    """Compare two stores at every hook point they share."""
    with ActivationStore(against) as other:
        names = common_hook_points(store, other)
        keys = sorted((store.attrs.keys() | other.attrs.keys()) - {*_NOT_CONTENT})
        pairs = {key: (store.attrs.get(key), other.attrs.get(key)) for key in keys}
        return {
            "against": str(against),
            "differing_attrs": {key: list(pair) for key, pair in pairs.items() if pair[0] != pair[1]},
            "hook_points": {name: asdict(compare_stores(store, other, name)) for name in names},
        }


def _latents(path: Path) -> dict[str, Any]:
    """Describe an analysis: its names and, for each SAE, how many latents there are and how many were selected."""
    analysis = load_analysis(path)
    counts = {label: analysis.entity_labels.count(label) for label in ("known", "unknown")}
    latents = [
        {
            "hook_point": f.hook_point,
            "sae": f.sae,
            "n_latents": len(f.q_value),
            "selected_known": len(f.selected["known"]),
            "selected_unknown": len(f.selected["unknown"]),
            "score_auroc": f.score.value,
            "probe_auroc": f.probe.value,
            "fvu_at_names": f.fvu_at_names,
        }
        for f in analysis.hook_points
    ]
    return {"counts": {**counts, "held_out": int(analysis.held_out.sum())}, "latents": latents}
