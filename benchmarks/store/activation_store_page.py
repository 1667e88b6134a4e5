"""The page that benchmarks/store/activation_store.py writes from its results."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

BUFFER_MB, SPARE_MB = 256, 500  # of the sampler; memory beside it that the bar allows


def spread(values: list[float], digits: int = 0) -> str:
    """Render the median, and the range where there is one."""
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def table(head: str, rows: list[tuple[str, ...]]) -> list[str]:
    """Render a table."""
    return ["", head, "|---" * (head.count("|") - 1) + "|", *("| " + " | ".join(row) + " |" for row in rows), ""]


def bar(name: str, value: float, limit: float, *, at_most: bool = False, digits: int = 2) -> tuple[str, ...]:
    """Render a figure that has a bar."""
    is_met = value <= limit if at_most else value >= limit
    return name, f"{value:,.{digits}f}", f"{'<=' if at_most else '>='} {limit:g}", "yes" if is_met else "**no**"


def render_caching(found: dict[str, Any]) -> list[str]:
    """Render the two comparisons of the writer."""
    own, other = found["caching"], found["saelens"]["runs"]
    middle = {name: statistics.median(values) for name, values in own["seconds"].items()}
    rows = [
        (name, spread([own["n_tokens"] / s for s in own["seconds"][key]]), "", "")
        for key, name in (("write", "`write_store`, tokens/s"), ("forward", "forward passes alone, tokens/s"))
    ]
    rows += [
        bar("share of the forward passes' speed", middle["forward"] / middle["write"], 0.9),
        ("hashing the weights, once a store, s", spread(own["seconds"]["hash"], 2), "", ""),
        ("the share without it", f"{middle['forward'] / (middle['write'] - middle['hash']):.2f}", "", ""),
    ]
    speed = {name: [run["rows"] / run["seconds"] for run in runs] for name, runs in other.items()}
    size = {name: runs[0]["bytes"] / runs[0]["rows"] for name, runs in other.items()}
    names = {
        "saelens": "SAELens, float32",
        "saelens-half": "SAELens, model in bfloat16",
        "float32": "`write_store`, float32",
        "packed": "`write_store`, float32, packed windows",
        "bfloat16": "`write_store`, bfloat16",
        "half": "`write_store`, model in bfloat16, bfloat16, packed windows",
    }
    theirs = statistics.median(speed["saelens"])
    rows += [(f"{n}: rows/s; {size[k]:,.0f} bytes a row", spread(speed[k]), "", "") for k, n in names.items()]
    rows += [
        bar(f"{names[k]}: times SAELens in float32", statistics.median(speed[k]) / theirs, 1.5)
        for k in ("float32", "packed", "bfloat16", "half")
    ]
    return [
        f"First half: hook points {' and '.join(own['hooks'])}, bfloat16 on disk, model in float32, {own['n_rows']:,} rows from "
        f"{own['n_tokens']:,} tokens ({own['n_places']:,} with padding) in windows of 128, 32 a batch. The forward passes are the "
        "same batches up to the deeper hook point, nothing kept; `write_store` hashes the weights as well. Second half: "
        f"SAELens' `CacheActivationsRunner` against this writer at {found['saelens']['hook']}, both from paragraphs to a finished "
        "file, tokenisation included, models loaded before; 128 tokens a window, 32 a batch, models in float32 unless said otherwise. SAELens joins "
        "paragraphs, fills every window and stores beginning-of-sequence rows too; here those "
        f"rows are left out, and a window ends with its document unless it is packed. Rows stored per run: {other['saelens'][0]['rows']:,} and {other['float32'][0]['rows']:,}.",
        *table("| figure | median (range) | bar | met |", rows),
    ]


def render_reading(found: dict[str, Any]) -> list[str]:
    """Render the ways to read."""
    runs, (n_rows, (written,)) = found["runs"], next(iter(found["written"].items()))
    speed = {name: [run["rows_per_s"] for run in runs[name]] for name in runs}
    middle = {name: statistics.median(values) for name, values in speed.items()}
    names = {
        "plain": "h5py in file order, not decoded, rows/s",
        "decoded": "the same, decoded to float32, rows/s",
        "batches": f"`ShuffledBatches`, one epoch in batches of 4096, buffer {BUFFER_MB} MB, rows/s",
        "train": "`train_sae`, d_sae 4608, k 32, batch 4096, reading included, rows/s",
    }
    cold, drawn = found["cold"], [*runs["batches"], found["cold"]["batches"]]
    peaks = [run["peak_mb"] for run in drawn]
    rows = [(text, spread(speed[name]), "", "") for name, text in names.items()]
    rows += [
        *(
            (f"first pass, {name}, rows/s; {cold[key].get('disk_bytes', 0) / 1e9:.2f} GB came from storage", spread([cold[key]["rows_per_s"]]), "", "")
            for key, name in (("plain", "h5py"), ("batches", "`ShuffledBatches`"))
        ),
        bar("batches drawn, times training", middle["batches"] / middle["train"], 5),
        bar("batches drawn, share of h5py's speed", middle["batches"] / middle["plain"], 0.4),
        bar("peak memory drawing batches, MB", max(peaks), BUFFER_MB + SPARE_MB, at_most=True, digits=0),
        ("of it after the imports, MB", spread([r["baseline_mb"] for r in drawn]), "", ""),
    ]  # fmt: skip
    return [
        f"{int(n_rows):,} random rows of d_in 576 in bfloat16, {written['bytes'] / 1e9:.2f} GB, written in {written['seconds']:.0f} s. "
        "Every line is a process of its own. Before a first pass the kernel was asked to drop the file from memory; in all the "
        "others the file is in the page cache, so they measure the program and not the disk.",
        *table("| figure | median (range) | bar | met |", rows),
    ]


def render_kills(found: dict[str, Any]) -> list[str]:
    """Render what came out of interrupted runs."""
    trials = found["trials"]
    at_kill = [rows for t in trials for rows in t["rows_at_kill"]]
    n_equal = sum(not t["differs"] for t in trials)
    quarters = ", ".join(f"{q:,.0f}" for q in np.percentile(at_kill, [0, 25, 50, 75, 100]))
    differs = sorted({key for t in trials for key in t["differs"]})
    rows = [
        bar(
            f"of {len(trials)} killed and resumed stores equal to the uninterrupted one", n_equal, len(trials), digits=0
        ),
        ("kills in all", f"{len(at_kill)}", "", ""),
        ("rows committed at the kills: least, quartiles, most", quarters, "", ""),
    ]
    return [
        f"`wb cache-activations` on the embedded world, two hook points, {found['n_rows']:,} rows: {found['end_s']:.1f} s, the file "
        f"appears after {found['begin_s']:.1f} s. Killed (SIGKILL) at a random time after that and "
        "resumed; half of the resumed runs are killed too, at most three kills a store. Equal: every dataset and every "
        "attribute but the time of creation and the seal over it."
        + (f" Different somewhere: {', '.join(differs)}." if differs else ""),
        *table("| figure | reached | bar | met |", rows),
    ]


def render_scale(found: dict[str, Any]) -> list[str]:
    """Render the writer by size, and how straight the lines are."""
    runs = {int(n): values for n, values in found["runs"].items()}
    took = {n: [v["seconds"] for v in values] for n, values in runs.items()}
    size = {n: values[0]["bytes"] for n, values in runs.items()}
    rows = [
        (f"{n:,}", spread(took[n], 2), spread([n / s for s in took[n]]), f"{size[n] / n:,.1f}") for n in sorted(runs)
    ]
    fits = [
        stats.linregress(list(runs), values)
        for values in ([statistics.median(took[n]) for n in runs], [size[n] for n in runs])
    ]
    return [
        "One hook point, d_in 576, bfloat16; the activations are rows of an embedding, so that the writer itself is measured. "
        f"Straight line through the medians: time R² {fits[0].rvalue ** 2:.4f}, {fits[0].slope * 1e6:.2f} s a million rows; size R² "
        f"{fits[1].rvalue ** 2:.6f}, {fits[1].slope:,.1f} bytes a row (1,152 are the activations, 13 the row fields).",
        *table("| rows | seconds | rows/s | bytes a row |", rows),
    ]


def render_flips(found: dict[str, Any]) -> list[str]:
    """Render what the workbench said about damaged files."""
    kinds = ("detected", "harmless", "untyped", "crashed", "hung", "silent")
    counts = {place: Counter(f["outcome"] for f in values["flips"]) for place, values in found.items()}
    rows = [(f"{p} ({found[p]['bytes']:,} bytes)", *(str(counts[p][kind]) for kind in kinds)) for p in found]
    n_acts = len(found["activations"]["flips"])
    bars = [
        bar("silently wrong, all places", sum(c["silent"] for c in counts.values()), 0, at_most=True, digits=0),
        bar(f"detected of {n_acts} in the activations", counts["activations"]["detected"], n_acts, digits=0),
    ]
    odd = Counter(
        f"{f['outcome']}: {f['detail']}" for v in found.values() for f in v["flips"] if f["outcome"] in kinds[2:]
    )
    return [
        "A finished store of 10,000 rows at two hook points; one bit flipped, then `wb inspect --verify`'s check and a read of "
        "everything. Detected: a typed error, or damage reported. Untyped: another exception. Harmless: every dataset and attribute "
        "as before. Silent: nothing said, and something differs.",
        *table("| bytes | " + " | ".join(kinds) + " |", rows),
        *table("| figure | reached | bar | met |", bars),
        *(f"- {n} × {text}" for text, n in odd.most_common()),
        *([""] if odd else []),
    ]


PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "caching": ("Caching", render_caching),
    "reading": ("Reading", render_reading),
    "kills": ("Kills", render_kills),
    "scale": ("Scale", render_scale),
    "flips": ("Flipped bits", render_flips),
}


def render(results: dict[str, Any], words: str) -> str:
    """Write the page; `words` is the paragraph written by hand."""
    about = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# The activation store, measured",
        "",
        f"{about['date']}, {about['cores']} CPU cores, threads everywhere: {about['threads']}, {versions}. Medians; what is compared ran in "
        "turn. Made again by",
        "",
        "    python -m benchmarks.store.activation_store --model SmolLM2-135M-Instruct.Q4_1.gguf --data DATA --out RUN \\",
        "        --docs docs/results/activation_store.md",
        "",
        "## What this shows",
        "",
        words,
        "",
    ]
    for name, (title, render_part) in PARTS.items():
        if name in results:
            lines += [f"## {title}", "", *render_part(results[name])]
    return "\n".join(lines)
