"""Inspect a file: structure and provenance of any of our HDF5 files, statistics of stored activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.analysis.store import SCHEMA as LATENTS
from features.analysis.store import VERSION as LATENTS_VERSION
from features.analysis.store import load_analysis
from features.entities.name_acts import SCHEMA as NAMES
from features.entities.name_acts import VERSION as NAMES_VERSION
from features.inspection.invariants import finite_violations, structure_violations, value_violations
from sae_train.activations.comparison import common_hook_points, compare_stores
from sae_train.activations.layout import SCHEMA as ACTIVATIONS
from sae_train.activations.layout import VERSION as ACTIVATIONS_VERSION
from sae_train.activations.measures.row_statistics import hook_point_stats
from sae_train.activations.store import ActivationStore, check_tokenizer
from sae_train.errors import ConfigError, FileFormatError, OutputExistsError, SchemaError
from sae_train.lm.models import load_tokenizer
from sae_train.run.notebook import html_rows
from sae_train.run.outputs import claimed
from sae_train.storage import h5, h5_contents

if TYPE_CHECKING:
    import pandas as pd

KNOWN = {ACTIVATIONS: ACTIVATIONS_VERSION, LATENTS: LATENTS_VERSION, NAMES: NAMES_VERSION}
_NOT_CONTENT = ("created", "schema", "schema_version", h5.SEAL)  # differ between two files that hold the same


@dataclass(frozen=True)
class Inspection:
    """What is in a file.

    Attributes:
        file: Its path.
        schema, schema_version: Its kind.
        attrs: Provenance.
        datasets: Structure: name, shape, type, unit, axes, bytes of each dataset.
        counts: Rows, tokens, documents of an activation store; entities of an analysis.
        statistics: By hook point, for a finished activation store (`HookPointStats`).
        latents: One entry per SAE of an analysis.
        comparison: With another store; None without one.
        verified: Datasets that were read whole; None where nothing was verified.
        damaged: Places that are not what was written.
        violations: Rules of the format that are broken.
    """

    file: str
    schema: str
    schema_version: int
    attrs: dict[str, Any]
    datasets: list[dict[str, Any]]
    counts: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    latents: list[dict[str, Any]] = field(default_factory=list)
    comparison: dict[str, Any] | None = None
    verified: int | None = None
    damaged: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @property
    def has_problems(self) -> bool:
        """Tell whether the file is damaged or breaks a rule."""
        return bool(self.damaged or self.violations)

    @property
    def problems(self) -> list[str]:
        """Return what is wrong, one sentence each."""
        return [*(f"damaged: {place}" for place in self.damaged), *self.violations]

    def summary(self) -> dict[str, Any]:
        """Return everything by name, as the command prints it for machines."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def table(self) -> pd.DataFrame:
        """Return the datasets: name, shape, dtype, unit, axes, stored_bytes and what else is known of each."""
        import pandas as pd

        return pd.DataFrame(self.datasets)

    def _repr_html_(self) -> str:
        """Return counts and datasets, for notebooks."""
        title = f"{self.file}: {self.schema} version {self.schema_version}"
        state = "not verified" if self.verified is None else ", ".join(self.problems) or "sound"
        rows = [*self.counts.items(), ("integrity", state)]
        names = ("name", "shape", "dtype", "unit", "axes")
        datasets = html_rows("Datasets", names, [[d[name] for name in names] for d in self.datasets])
        return f"<div>{html_rows(title, ('what', 'value'), rows)}{datasets}</div>"


def inspect_file(
    path: str | Path,
    *,
    verify: bool = False,
    against: str | Path | None = None,
    tokenizer: Any = None,
    html: str | Path | None = None,
    overwrite: bool = False,
) -> Inspection:
    """Describe a file.

    Args:
        path: Any of our HDF5 files.
        verify: Read every chunk, check its checksum, and check what must hold in an activation store.
        against: Another activation store to compare this one with.
        tokenizer: Of the store's model, or what `load_lm` takes: gives the top tokens their text.
        html: Where a page with pictures goes; None writes none.
        overwrite: Replace that page.

    Raises:
        FileFormatError, SchemaError: Not one of ours, newer, or, where nothing is verified, damaged.
        ConfigError: Something other than an activation store is to be compared, or the tokenizer is another one.
        OutputExistsError: The page is there already.
    """
    if html is not None and Path(html).is_dir():
        raise OutputExistsError(f"'{html}' is a folder", got=html, field="html", expected="a file, as in acts.html")
    with claimed(html, overwrite=overwrite, field="html"):
        words = load_tokenizer(str(tokenizer)) if isinstance(tokenizer, str | Path) else tokenizer
        found = _inspect(Path(path), verify=verify, against=None if against is None else Path(against), tokenizer=words)
        if html is not None:
            from features.pages.inspection_page import write_inspection_page  # draws: only for those who want a page

            write_inspection_page(found, Path(html))
    return found


def _inspect(path: Path, *, verify: bool, against: Path | None, tokenizer: Any) -> Inspection:
    """Read structure first, then, where that is sound, contents."""
    with h5.open_checked(path, None, max(KNOWN.values()), may_join=True) as file, h5.understood(path):
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
    found: dict[str, Any] = {}
    if is_readable:
        try:
            found = _contents(path, kind, attrs, against, tokenizer)
        except FileFormatError as error:
            if not verify:
                raise
            damaged = _damaged_places(path) or [f"{error.what}: {error.got}"]
    return Inspection(
        file=str(path),
        schema=kind,
        schema_version=version,
        attrs=attrs,
        datasets=datasets,
        **found,
        verified=len(datasets) if verify else None,
        damaged=damaged,
        violations=violations + (finite_violations(found.get("statistics", {})) if verify else []),
    )


def _damaged_places(path: Path) -> list[str]:
    """Name the chunks whose content is not what was written though HDF5 finds nothing wrong with their bytes."""
    try:
        with ActivationStore(path) as store:
            return store.damaged_chunks()
    except FileFormatError:
        return []


def _check_kind(path: Path, kind: str, version: int, against: Path | None) -> None:
    """Refuse unknown kinds and versions of files, and comparisons of files without rows."""
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
            check_tokenizer(store, tokenizer)
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
