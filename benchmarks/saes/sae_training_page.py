"""The page that benchmarks/saes/sae_training.py writes from its results."""

from __future__ import annotations

import statistics
from typing import Any

SPEED_BARS = (("saelens", 6.0), ("saelens, fastest", 4.0), ("dictionary_learning", 5.0), ("sparsify", 2.0))
FVU_BAR, PRODUCT_BAR = 0.005, 1.3


def table(head: str, rows: list[tuple[str, ...]]) -> list[str]:
    """Render a table."""
    return ["", head, "|---" * (head.count("|") - 1) + "|", *("| " + " | ".join(row) + " |" for row in rows), ""]


def met(value: float, limit: float, *, at_most: bool = False) -> str:
    """Render whether a figure meets its bar."""
    return "yes" if (value <= limit if at_most else value >= limit) else "**no**"


def speeds(cell: dict[str, Any]) -> dict[str, float]:
    """Return tokens/s of each system in a cell: the median over rounds of the median step."""
    return {
        name: cell["batch"] / statistics.median(statistics.median(r["step_s"]) for r in rounds)
        for name, rounds in cell["rounds"].items()
    }


def render_cell(title: str, cell: dict[str, Any]) -> list[str]:
    """Render speed and memory at one size."""
    found = speeds(cell)
    fastest = max((n for n in found if n.startswith("saelens")), key=lambda n: found[n], default=None)
    bars = dict(SPEED_BARS)
    rows = []
    for name, value in sorted(found.items(), key=lambda item: -item[1]):
        times = found["ours"] / value
        limits = [bars[name]] if name in bars else []
        limits += [bars["saelens, fastest"]] if name == fastest else []
        runs = cell["rounds"][name]
        each = [cell["batch"] / statistics.median(r["step_s"]) for r in runs]
        verdict = " / ".join(f">= {limit:g} {met(times, limit)}" for limit in limits)
        peak, before = (statistics.median(r[key] for r in runs) for key in ("peak_mb", "before_mb"))
        rows.append(
            (
                name,
                f"{value:,.0f} ({min(each):,.0f}–{max(each):,.0f})",
                f"{times:.2f}",
                verdict,
                f"{peak:,.0f}",
                f"{peak - before:,.0f}",
            )
        )
    head = "| system | tokens/s (range of rounds) | ours is times | bar | peak MB | of it beyond imports and batches |"
    ours = statistics.median(r["peak_mb"] for r in cell["rounds"]["ours"])
    peers = [
        statistics.median(r["peak_mb"] for r in runs)
        for name, runs in cell["rounds"].items()
        if not name.startswith("ours")
    ]
    memory = f"Peak memory no higher than the leanest peer's: {met(ours, min(peers), at_most=True)}." if peers else ""
    return [f"### {title}", *table(head, rows), memory, ""]


def render_quality(found: dict[str, Any]) -> list[str]:
    """Render FVU after equal tokens."""
    best = min((run["fvu"] for name, run in found.items() if not name.startswith("ours")), default=float("nan"))
    rows = [
        (name, f"{run['fvu']:.4f}", f"{run['tokens']:,}", f"{run['seconds']:.0f}")
        for name, run in sorted(found.items(), key=lambda item: item[1]["fvu"])
    ]
    bar = f"At most the best peer's + {FVU_BAR}: {met(found['ours']['fvu'], best + FVU_BAR, at_most=True)}."
    return [*table("| system | held-out FVU | tokens | seconds |", rows), bar if len(found) > 1 else "", ""]


def render_scaling(found: list[dict[str, Any]]) -> list[str]:
    """Render our steps beside the product."""
    rows = [
        (
            f"{r['d_sae']:,}", str(r["k"]), f"{r['batch'] / r['step_s']:,.0f}", f"{1e3 * r['step_s']:.0f}", f"{1e3 * r['product_s']:.0f}",
            f"{r['step_s'] / r['product_s']:.2f}", met(r["step_s"] / r["product_s"], PRODUCT_BAR, at_most=True), r["notes"],
        )
        for r in found
    ]  # fmt: skip
    head = f"| d_sae | k | tokens/s | step ms | float32 product ms | ratio | <= {PRODUCT_BAR} | |"
    return table(head, rows)


def render(results: dict[str, Any], words: str) -> str:
    """Write the page; `words` is the paragraph written by hand."""
    about, setting = results["machine"], results["setting"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# Training SAEs, measured",
        "",
        f"{about['date']}, {about['cores']} cores of {about['cpu']} ({' '.join(about['flags']) or 'flags unknown'}), {about['threads']} threads, "
        f"{versions}. Activations: {setting['activations']}, d_in {setting['d_in']}. Each system in a process of its own, in turn, on the same "
        "batches; medians of steps after warm-up. Made again by",
        "",
        "    python -m benchmarks.saes.sae_training --out RUN --peers-path PEERS --docs docs/results/sae_training.md",
        "",
        "## What this shows",
        "",
        words,
        "",
    ]
    left_out = {name: why for name, why in results.get("left_out", {}).items() if why}
    lines += [f"Left out: {name}: {why}" for name, why in left_out.items()] + [""] * bool(left_out)
    if "speed" in results:
        lines += ["## Speed and memory", ""]
        for title, cell in results["speed"].items():
            lines += render_cell(title, cell)
    if "quality" in results:
        lines += ["## Quality after equal tokens", ""]
        for title, found in results["quality"].items():
            lines += [f"### {title}", *render_quality(found)]
    if "scaling" in results:
        lines += ["## One step beside the bare float32 encoder product", *render_scaling(results["scaling"])]
    return "\n".join(lines).rstrip() + "\n"
