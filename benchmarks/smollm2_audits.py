"""One removal request, several methods, one audit each: ten cities forgotten by SmolLM2-135M-Instruct, side by side.

    python benchmarks/smollm2_audits.py --model SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2_valid.txt.gz --cities CITIES
        --sae SAE [--sae SAE …] --latents latents.h5 --out RUN [--docs docs/smollm2_audits.md]

CITIES is what `benchmarks/cities.py --model …` left (`labels.jsonl`, `templates.json`). Targets: drawn by seed among the known
cities. Every station is a `wb` command; what each printed with --json and how long it took is kept in RUN/results.json and not
repeated; the page is written from that. Settings are those of METHODS; nothing was tuned on these targets.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from smollm2 import Bench, share

N_TARGETS = 10
SHARED = {"steps": 60, "batch-size": 8, "lr": 2e-5, "retain-weight": 4.0}
METHODS: dict[str, dict[str, Any]] = {
    "redirect-closed-form": {},
    "idk": SHARED,
    "rmu": SHARED,
}
AUDIT = ("--max-retain", 60, "--n-samples", 2)
ROWS = (
    ("target recall", "forget", "recall"),
    ("true answer ranked first", "forget", "ranking"),
    ("neighbours", "neighbours", "recall"),
    ("other known cities", "retain", "recall"),
    ("... never retained", "untouched", "recall"),
)


def draw_targets(labels: Path) -> list[str]:
    """Draw the cities to forget."""
    known = [e["name"] for e in map(json.loads, labels.read_text().splitlines()) if e["label"] == "known"]
    return sorted(random.Random("smollm2 audits").sample(known, N_TARGETS))


def run(args: argparse.Namespace) -> Bench:
    """Unlearn and audit with every method."""
    args.out.mkdir(parents=True, exist_ok=True)
    bench, labels = Bench(args.out), args.cities / "labels.jsonl"
    saes = [word for folder in args.sae for word in ("--sae", folder)]
    targets = [word for name in draw_targets(labels) for word in ("--forget", name)]
    common = (
        "--model", args.model, "--templates", args.cities / "templates.json", *saes, "--labels", labels,
        "--latents", args.latents, "--text", args.text, *targets,
    )  # fmt: skip
    for method in args.method:
        settings = [word for key, value in METHODS[method].items() for word in (f"--{key}", value)]
        folder = args.out / method
        bench.wb(f"unlearn {method}", "unlearn", *common, "--method", method, *settings, "--out", folder, "--overwrite")
        bench.wb(
            f"audit {method}", "audit", *common, "--unlearned", folder, *AUDIT,
            "--out", args.out / f"audit-{method}", "--overwrite",
        )  # fmt: skip
    return bench


def render(results: dict[str, Any]) -> str:
    """Write the page from the results."""
    methods = [m for m in METHODS if f"audit {m}" in results]
    audits = [results[f"audit {m}"] for m in methods]
    first = audits[0]
    lines = [
        "# One removal, three methods, one audit each",
        "",
        "SmolLM2-135M-Instruct (GGUF, Q4_1, dequantised to float32), Wikidata cities, two CPU cores. Made again by",
        "",
        "    python benchmarks/smollm2_audits.py --model SmolLM2-135M-Instruct.Q4_1.gguf --text DATA/wikitext2_valid.txt.gz \\",
        "        --cities CITIES --sae SAE --latents latents.h5 --out RUN --docs docs/smollm2_audits.md",
        "",
        f"Targets, together: {', '.join(first['request']['forget'])}. Settings, not tuned: "
        + "; ".join(f"{m}: {', '.join(f'{k} {v}' for k, v in METHODS[m].items()) or 'defaults'}" for m in methods)
        + ".",
        "",
        "| | before | " + " | ".join(methods) + " |",
        "|---|---|" + "---|" * len(methods),
    ]
    for title, group, figure in ROWS:
        after = " | ".join(share(a[group].get(f"{figure}_after")) for a in audits)
        lines.append(f"| {title} | {share(first[group].get(f'{figure}_before'))} | {after} |")
    losses = " | ".join(f"{a['utility']['loss_after']:.3f}" for a in audits)
    lines.append(f"| loss on general text (nats) | {first['utility']['loss_before']:.3f} | {losses} |")
    for name in first["attacks"]:
        found = [a["attacks"].get(name) for a in audits]
        cells = " | ".join("–" if f is None else f"{f['recall_after']:.2f} ({f['compared_high']:.2f})" for f in found)
        lines.append(
            f"| after attack: {name} (upper end of never known) | {share(first['attacks'][name]['before_value'])} | {cells} |"
        )
    lines += [
        f"| verdict | | {' | '.join(a['verdict'] for a in audits)} |",
        "| seconds to unlearn, to audit | | "
        + " | ".join(f"{results[f'unlearn {m}']['wall_s']:.0f}, {results[f'audit {m}']['wall_s']:.0f}" for m in methods)
        + " |",
        "",
        "## What decided",
        "",
    ]
    for method, audit in zip(methods, audits, strict=True):
        failed = [c["name"] for c in audit["checks"] if c["status"] == "fail"]
        lines.append(f"- **{method}**: {', '.join(failed) or 'no check failed'}.")
    lines += [
        "",
        "## Answers",
        "",
        "| question | before | " + " | ".join(methods) + " |",
        "|---|---|" + "---|" * len(methods),
    ]
    for row in range(0, len(first["answers"]), 3):
        said = " | ".join(a["answers"][row]["after"] for a in audits)
        lines.append(f"| {first['answers'][row]['prompt']} | {first['answers'][row]['before']} | {said} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the benchmark and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--cities", type=Path, required=True)
    parser.add_argument("--sae", type=Path, nargs="+", required=True)
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    bench = run(args)
    if args.docs is not None:
        args.docs.write_text(render(bench.results), encoding="utf-8")


if __name__ == "__main__":
    main()
