"""The page that benchmarks/gpu.py writes from its results: one table."""

from __future__ import annotations

from typing import Any

COMMAND = "python -m benchmarks.gpu --out RUN --docs docs/results/gpu.md"


def render(results: dict[str, Any]) -> str:
    """Write the page."""
    where, cells = results["machine"], results["cells"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    small = " **Small sizes: they say that the script runs, and nothing about speed.**" if results["small"] else ""
    lines = [
        "# What a GPU does",
        "",
        f"{where['date']}, {where['device']}: {where['name']}, {where['cores']} cores beside it; {versions}.{small} A step is that of `topk` on a batch of {results['batch']:,} "
        "made-up activations that are on the device already; the numbers behind `step` and `peer` are d_in, d_sae and k, and *the product* is that of the batch with the encoder in bfloat16. "
        "Times are medians. Made again by",
        "",
        f"    {COMMAND}",
        "",
        "| measurement | figure | beside it |",
        "|---|---|---|",
        *(f"| {name.replace('/', ' ')} | {' | '.join(described(name, found))} |" for name, found in cells.items()),
    ]
    if results["missing"]:
        lines += ["", f"Not measured, the time was over: {', '.join(results['missing'])}."]
    return "\n".join(lines) + "\n"


def described(name: str, found: dict[str, Any]) -> tuple[str, str]:
    """Return the figure of a measurement and what stands beside it."""
    if "left_out" in found:
        return "–", found["left_out"]
    kind = "parity/caching" if name == "parity/caching" else name.partition("/")[0]
    return DESCRIBED[kind](found)


def _parity(found: dict[str, Any]) -> tuple[str, str]:
    beside = f"on the CPU {found['fvu_cpu']:.6f}; lowest cosine of decoder rows {found['lowest_cosine']:.6f}"
    return f"FVU {found['fvu']:.6f}", beside


def _parity_of_caching(found: dict[str, Any]) -> tuple[str, str]:
    return f"relative error {found['relative_error']:.1e}", f"{found['n_rows']:,} float32 rows against the CPU's"


def _caching(found: dict[str, Any]) -> tuple[str, str]:
    beside = f"{found['times_forward']:.2f} times the bare forward passes of {found['blocks']} blocks of width {found['d_in']:,}"
    beside += f"; {found['stored_mb_per_s']:,.0f} MiB/s stored; hashing the weights, once a run, {found['hashing_s']:.1f} s more"
    return f"{found['tokens_per_s']:,.0f} tokens/s", beside + _memory(found)


def _step(found: dict[str, Any]) -> tuple[str, str]:
    beside = (
        f"{found['times_product']:.2f} times the product ({found['product_ms']:.3f} ms); search in {found['search']}"
    )
    return _speed(found), beside + _memory(found)


def _peer(found: dict[str, Any]) -> tuple[str, str]:
    return _speed(found), "its own defaults, the same size" + _memory(found)


def _reading(found: dict[str, Any]) -> tuple[str, str]:
    source = "from disk" if found["from_disk"] else "the file is in the system's memory"
    return f"{found['rows_per_s']:,.0f} rows/s", f"{found['mb_per_s']:,.0f} MiB/s, shuffled, {source}, to the device"


def _speed(found: dict[str, Any]) -> str:
    return f"{found['ms']:.2f} ms, {found['rows_per_s']:,.0f} rows/s"


def _memory(found: dict[str, Any]) -> str:
    return "" if found["peak_mb"] is None else f"; {found['peak_mb']:,.0f} MiB at most"


DESCRIBED = {
    "parity": _parity,
    "parity/caching": _parity_of_caching,
    "caching": _caching,
    "step": _step,
    "peer": _peer,
    "reading": _reading,
}
