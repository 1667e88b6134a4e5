"""The tables of `wb inspect`: each at most 100 columns wide, one line per hook point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from features.inspection.inspection import Inspection

TOP_TOKENS = 5  # per hook point; all of them stand in --json and on the page


class InspectTable(NamedTuple):
    """One table: its title, the heads of its columns (None for two columns that need none), its rows."""

    title: str
    columns: Sequence[str] | None
    rows: Sequence[Sequence[object]]


def inspect_tables(found: Inspection) -> Iterator[InspectTable]:
    """Yield the tables of what `inspect_file` found, in the order one reads them."""
    yield InspectTable(f"{found.file}: {found.schema} version {found.schema_version}", None, list(found.attrs.items()))
    columns = ("name", "shape", "type", "unit", "axes", "bytes")
    names = ("name", "shape", "dtype", "unit", "axes", "stored_bytes")
    yield InspectTable("Datasets", columns, [tuple(d[name] for name in names) for d in found.datasets])
    if found.counts:
        rows = [(key.replace("_", " "), value) for key, value in found.counts.items()]
        yield InspectTable("Counts", None, rows)
    if found.statistics:
        for make in (_norms, _spread, _massive_dims, _top_tokens, _drift):
            yield make(found.statistics)
    if found.latents:
        columns = ("hook point", "SAE", "latents", "known", "unknown", "score AUROC", "probe AUROC", "FVU at names")
        yield InspectTable("Selected latents", columns, [tuple(entry.values()) for entry in found.latents])
    if found.comparison is not None:
        yield from _comparison(found.comparison)
    if found.verified is not None:
        problems = [("datasets read whole", found.verified), ("damaged", len(found.damaged))]
        yield InspectTable("Verification", None, [*problems, ("violations", len(found.violations))])


def _norms(statistics: Mapping[str, Any]) -> InspectTable:
    """Return percentiles of the rows' norms."""
    return InspectTable(
        "Row norms",
        ("hook point", "d_in", "mean", "p01", "p25", "p50", "p75", "p99", "max", "NaN/Inf rows"),
        [
            (name, s["d_in"], s["mean_norm"], *s["norm_percentiles"].values(), s["n_nonfinite_rows"])
            for name, s in statistics.items()
        ],
    )


def _spread(statistics: Mapping[str, Any]) -> InspectTable:
    """Return variance, tails, rank and duplicates."""
    heads = ("variance", "kurtosis", "largest", "eff. rank", "top 1", "top 10", "equal", "near equal")
    return InspectTable(
        "Spread: kurtosis is the excess, mean and largest; ranks, shares and duplicates are of a sample",
        ("hook point", *heads),
        [
            (
                name,
                s["variance"],
                s["mean_kurtosis"],
                s["largest_kurtosis"]["kurtosis"] if s["largest_kurtosis"] else None,
                s["spectrum"]["effective_rank"],
                s["spectrum"]["frac_top1"],
                s["spectrum"]["frac_top10"],
                s["duplicates"]["frac_exact"],
                s["duplicates"]["frac_near"],
            )
            for name, s in statistics.items()
        ],
    )


def _massive_dims(statistics: Mapping[str, Any]) -> InspectTable:
    """Return the dimensions that carry much of the norm."""
    return InspectTable(
        "Massive dimensions: share of the squared norm, root mean square over that of the median dimension",
        ("hook point", "dimension", "share", "times the median"),
        [
            (name, str(d["dimension"]), d["frac_squares"], d["times_median"])
            for name, s in statistics.items()
            for d in s["massive_dims"][:3]
        ],
    )


def _top_tokens(statistics: Mapping[str, Any]) -> InspectTable:
    """Return the tokens with the largest rows."""
    return InspectTable(
        "Tokens with the largest mean norm",
        ("hook point", "token", "text", "rows", "mean norm"),
        [
            (name, str(t["token_id"]), repr(t["text"]) if "text" in t else None, t["n_rows"], t["mean_norm"])
            for name, s in statistics.items()
            for t in s["top_tokens"][:TOP_TOKENS]
        ],
    )


def _drift(statistics: Mapping[str, Any]) -> InspectTable:
    """Return what changes along a document."""
    return InspectTable(
        "Drift by position in the document: the mean norm, and the cosine of the mean there to the mean of all",
        ("hook point", "positions", "rows", "mean norm", "cosine"),
        [
            (name, positions_text(p), p["n_rows"], p["mean_norm"], p["cosine"])
            for name, s in statistics.items()
            for p in s["positions"]
        ],
    )


def positions_text(positions: Mapping[str, Any]) -> str:
    """Return the range of a bin of positions, `4-7`."""
    first, last = positions["first"], positions["last"]
    return f"{first}" if first == last else f"{first}-{last}"


def _comparison(comparison: Mapping[str, Any]) -> Iterator[InspectTable]:
    """Yield the tables of two stores."""
    rows = comparison["hook_points"]
    columns = ("hook point", "same rows", "mean shift", "spread", "CKA", "row change", "p99", "on text", "on names")
    yield InspectTable(
        f"Against {comparison['against']}",
        columns,
        [
            (
                name,
                r["frac_same_rows"],
                r["mean_shift"],
                r["spread_ratio"],
                r["cka"],
                *(_row_change(r["row_change"])),
            )
            for name, r in rows.items()
        ],
    )
    yield InspectTable(
        "Dimensions that moved most: move of the mean in standard deviations, ratio of the standard deviations",
        ("hook point", "dimension", "move", "ratio"),
        [
            (name, str(d["dimension"]), d["change"], d["std_ratio"])
            for name, r in rows.items()
            for d in r["changed_dims"][:3]
        ],
    )


def _row_change(change: Mapping[str, Any] | None) -> tuple[object, ...]:
    """Return the columns on the change of rows, empty where rows could not be compared."""
    if change is None:
        return (None,) * 4
    return (change["mean"], change["percentiles"]["p99"], change["mean_text"], change["mean_entity"])
