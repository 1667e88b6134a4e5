"""The whole thread on a real language model: SmolLM2-135M-Instruct, WikiText-2, Wikidata cities; one removal, three methods.

    python -m benchmarks.unlearning.smollm2 --model SmolLM2-135M-Instruct.Q4_1.gguf --data DATA --out RUN [--docs docs/results/smollm2.md]

DATA holds `wikitext2_valid.txt.gz` and `wikidata_cities.jsonl.gz`. Every station is a `wb` command; what each printed with
--json and how long it took is kept in RUN/results.json, finished stations are not repeated, and the page is written from that.

The cities that are asked about are those of `cities.py`. The SAEs are trained on text and on the names of all *other* cities,
so that no name that is mined or tested was seen by them. Targets are drawn by seed among the known cities, forgotten together
by each of METHODS, and every result is audited. The settings were not tuned on them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.entities.cities import city_line, read_cities, write_inputs
from benchmarks.unlearning.smollm2_page import render
from sae_train.text_files import lines_of, read_text

HOOK_POINTS = ("layers.9", "layers.15", "layers.21")
N_TARGETS = 10
METHODS: dict[str, dict[str, Any]] = {
    "redirect-closed-form": {},
    "idk": {"steps": 40, "batch-size": 8, "lr": 5e-5, "retain-weight": 4.0},
    "ga": {"steps": 15, "batch-size": 8, "lr": 2e-5},
}
GATE = ("--gate-entities", 24, "--gate-blocks", 8, "--steering", "--steering-entities", 12)
AUDIT = ("--quick", "--max-retain", 60)


def write_others(data: Path, asked: Path, others: Path) -> None:
    """Write the cities of the file whose names are not asked about: names for the SAEs to be trained on."""
    names = {json.loads(line)["name"] for line in lines_of(read_text(asked))}
    kept = {r["name"]: r["country"] for r in reversed(read_cities(data)) if r["name"] not in names}
    with others.open("w", encoding="utf-8") as stream:
        for name, country in reversed(kept.items()):
            stream.write(json.dumps(city_line(name, country), ensure_ascii=False) + "\n")


def draw_targets(labels: Path) -> list[str]:
    """Draw the cities to forget."""
    known = [e["name"] for e in map(json.loads, lines_of(read_text(labels))) if e["label"] == "known"]
    return sorted(random.Random("smollm2 audits").sample(known, N_TARGETS))


class Bench:
    """Runs `wb` commands once each and keeps what they printed."""

    def __init__(self, out: Path) -> None:
        self.path = out / "results.json"
        self.results: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def wb(self, name: str, *words: object) -> dict[str, Any]:
        """Run one command; return its JSON with `wall_s` added."""
        if name not in self.results:
            command = ["wb", *map(str, words), "--json", "--overwrite"]
            started = time.monotonic()
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = {**json.loads(done.stdout), "wall_s": time.monotonic() - started, "command": command}
            self.results[name] = found
            self.path.write_text(json.dumps(self.results, indent=1), encoding="utf-8")
        return self.results[name]


def run(model: str, data: Path, out: Path, methods: list[str]) -> Bench:
    """Run every station."""
    bench, text = Bench(out), data / "wikitext2_valid.txt.gz"
    cities, templates = write_inputs(data, out)
    labels, acts, latents, others = (out / n for n in ("labels.jsonl", "acts.h5", "latents.h5", "others.jsonl"))
    write_others(data, cities, others)
    asked = ("--model", model, "--templates", templates)
    hooks = [word for name in HOOK_POINTS for word in ("--hook-point", name)]
    saes = [word for name in HOOK_POINTS for word in ("--sae", out / f"sae-{name}")]
    bench.wb(
        "cache", "cache-activations", *asked, "--text", text, *hooks, "--entities", others, "--frac-entity-rows", 0.1,
        "--max-tokens", 230_000, "--out", acts,
    )  # fmt: skip
    for name in HOOK_POINTS:
        bench.wb(
            f"sae {name}", "train-sae", "--activations", acts, "--hook-point", name, "--k", 32, "--expansion", 8,
            "--tokens", 1_000_000, "--out", out / f"sae-{name}",
        )  # fmt: skip
    bench.wb("label", "label-entities", *asked, "--entities", cities, "--out", labels)
    bench.wb(
        "mine", "find-entity-latents", *asked, *saes, "--labels", labels, "--activations", acts,
        "--acts-out", out / "names.h5", *GATE, "--out", latents,
    )  # fmt: skip
    targets = [word for name in draw_targets(labels) for word in ("--forget", name)]
    common = (*asked, *saes, "--labels", labels, "--latents", latents, "--text", text, *targets)
    for method in methods:
        settings = [word for key, value in METHODS[method].items() for word in (f"--{key}", value)]
        folder = out / method
        bench.wb(f"unlearn {method}", "unlearn", *common, "--method", method, *settings, "--out", folder)
        bench.wb(f"audit {method}", "audit", *common, "--unlearned", folder, *AUDIT, "--out", out / f"audit-{method}")
    return bench


def main() -> None:
    """Run the benchmark and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    bench = run(args.model, args.data, args.out, args.method)
    if args.docs is not None:
        args.docs.write_text(render(bench.results, METHODS), encoding="utf-8")


if __name__ == "__main__":
    main()
