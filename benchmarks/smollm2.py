"""The whole thread on a real language model: SmolLM2-135M-Instruct, WikiText-2, Wikidata cities.

    python benchmarks/smollm2.py --model SmolLM2-135M-Instruct.Q4_1.gguf --data DATA --out RUN [--docs docs/smollm2.md]

DATA holds `wikitext2_valid.txt.gz` and `wikidata_cities.jsonl.gz`. Every station is a `wb` command; what each printed
with --json and how long it took is kept in RUN/results.json, and docs/smollm2.md is written from that. Targets: drawn by
seed among the known cities. Settings are to be chosen on --part validation (three cities) and reported on --part test
(three others). Finished stations are not repeated.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

from cities import TEMPLATES

HOOK_POINTS = ("layers.6", "layers.9")
N_LARGEST, N_OTHERS = 400, 400  # cities asked about: the largest, and a random draw of the rest
N_TARGETS = 3
ALIASES = {
    "People's Republic of China": ["China"],
    "United States of America": ["United States", "USA", "US", "U.S.", "America"],
    "United Kingdom": ["UK", "England", "Scotland", "Wales", "Great Britain", "Northern Ireland"],
    "Democratic Republic of the Congo": ["Congo", "DRC"],
    "Republic of the Congo": ["Congo"],
    "South Korea": ["Korea"],
    "North Korea": ["Korea"],
    "Kingdom of the Netherlands": ["Netherlands", "Holland"],
    "Netherlands": ["Holland"],
    "Türkiye": ["Turkey"],
    "Turkey": ["Türkiye"],
    "Ivory Coast": ["Côte d'Ivoire"],
    "Myanmar": ["Burma"],
    "Czech Republic": ["Czechia"],
    "United Arab Emirates": ["UAE", "Emirates"],
    "Russia": ["Russian Federation", "Soviet Union"],
    "Taiwan": ["China"],
}
UNLEARN = {"steps": 60, "block-weight": 1.0, "lr": 5e-5, "batch-size": 6, "blocks": "from-hook", "retain-weight": 8.0}


def write_inputs(data: Path, out: Path) -> None:
    """Write entities and templates in the workbench's form."""
    with gzip.open(data / "wikidata_cities.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    rows = [r for r in rows if r.get("country") and r.get("name")]
    chosen = rows[:N_LARGEST] + random.Random(0).sample(rows[N_LARGEST:], N_OTHERS)
    with (out / "cities.jsonl").open("w", encoding="utf-8") as stream:
        for row in chosen:
            answers = [row["country"], *ALIASES.get(row["country"], [])]
            stream.write(json.dumps({"name": row["name"], "type": "city", "facts": {"country": answers}}) + "\n")
    (out / "templates.json").write_text(json.dumps(TEMPLATES, indent=1), encoding="utf-8")


def draw_targets(labels: Path, part: str) -> list[str]:
    """Draw the cities to forget: known, a different three for validation and for the test."""
    known = [e["name"] for e in map(json.loads, labels.read_text().splitlines()) if e["label"] == "known"]
    random.Random(1).shuffle(known)
    return known[:N_TARGETS] if part == "validation" else known[N_TARGETS : 2 * N_TARGETS]


class Bench:
    """Runs `wb` commands once each and keeps what they printed."""

    def __init__(self, out: Path) -> None:
        self.path = out / "results.json"
        self.results: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def wb(self, name: str, *words: object) -> dict[str, Any]:
        """Run one command; return its JSON with `wall_s` added."""
        if name not in self.results:
            command = ["wb", *map(str, words), "--json"]
            started = time.monotonic()
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = {**json.loads(done.stdout), "wall_s": time.monotonic() - started, "command": command}
            self.results[name] = found
            self.path.write_text(json.dumps(self.results, indent=1), encoding="utf-8")
        return self.results[name]


def run(model: str, data: Path, out: Path, part: str) -> Bench:
    """Run every station."""
    out.mkdir(parents=True, exist_ok=True)
    write_inputs(data, out)
    bench = Bench(out)
    text, cities, templates = data / "wikitext2_valid.txt.gz", out / "cities.jsonl", out / "templates.json"
    labels, acts, latents = out / "labels.jsonl", out / "acts.h5", out / "latents.h5"
    asked = ("--model", model, "--templates", templates)
    hooks = [word for name in HOOK_POINTS for word in ("--hook-point", name)]
    bench.wb(
        "cache", "cache-activations", *asked, "--text", text, *hooks, "--entities", cities, "--entity-share", 0.03,
        "--max-tokens", 165_000, "--out", acts, "--overwrite",
    )  # fmt: skip
    bench.wb("inspect", "inspect", acts, "--verify")
    for name in HOOK_POINTS:
        sae = out / f"sae-{name}"
        bench.wb(
            f"sae {name}", "train-sae", "--activations", acts, "--hook-point", name, "--k", 32, "--expansion", 8,
            "--tokens", 330_000, "--out", sae, "--overwrite",
        )  # fmt: skip
        bench.wb(
            f"eval {name}", "eval-sae", "--sae", sae, "--activations", acts, "--model", model, "--text", text,
            "--max-tokens", 8_000,
        )  # fmt: skip
    saes = [word for name in HOOK_POINTS for word in ("--sae", out / f"sae-{name}")]
    bench.wb("label", "label-entities", *asked, "--entities", cities, "--out", labels, "--overwrite")
    bench.wb(
        "mine", "find-entity-latents", *asked, *saes, "--labels", labels, "--activations", acts, "--out", latents,
        "--min-separation", 0.2, "--overwrite",
    )  # fmt: skip
    targets = draw_targets(labels, part)
    forget = [word for name in targets for word in ("--forget", name)]
    with_latents = (*asked, *saes, "--labels", labels, "--latents", latents, "--text", text, *forget)
    settings = [word for key, value in UNLEARN.items() for word in (f"--{key}", value)]
    unlearned = out / f"unlearned-{part}"
    bench.wb(f"unlearn {part}", "unlearn", *with_latents, *settings, "--out", unlearned, "--overwrite")
    hook_point = bench.results[f"unlearn {part}"]["hook_point"]
    bench.wb(
        f"audit {part}", "audit", *with_latents, "--unlearned", unlearned, "--hook-point", hook_point,
        "--max-retain", 60, "--out", out / f"audit-{part}", "--overwrite",
    )  # fmt: skip
    return bench


def share(value: float | None) -> str:
    """Render a share, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def render(results: dict[str, Any], part: str) -> str:
    """Write the page of docs from the results."""
    audit, mine, label = results[f"audit {part}"], results["mine"], results["label"]
    cache, tune = results["cache"], results[f"unlearn {part}"]
    lines = [
        "# The whole thread on a real language model",
        "",
        "SmolLM2-135M-Instruct (GGUF, Q4_1, dequantised to float32), WikiText-2 validation text, Wikidata cities. One run,",
        "one seed, two CPU cores. Made again by",
        "",
        "    python benchmarks/smollm2.py --model SmolLM2-135M-Instruct.Q4_1.gguf --data DATA --out RUN --docs docs/smollm2.md",
        "",
        f"Targets: {', '.join(audit['request']['forget'])}. Settings (nothing was tuned): "
        + ", ".join(f"{key} {value}" for key, value in UNLEARN.items())
        + ", everything else by default.",
        "",
        "## What each station gave",
        "",
        "| station | figures | seconds |",
        "|---|---|---|",
        f"| cache | {cache['n_rows']:,} rows at {len(cache['hook_points'])} hook points, {cache['n_entity_rows']:,} of them last "
        f"name tokens; {cache['tokens_per_s']:,.0f} tokens/s | {cache['wall_s']:.0f} |",
    ]
    for name in HOOK_POINTS:
        sae, ev = results[f"sae {name}"], results[f"eval {name}"]
        lines.append(
            f"| SAE {name} | d_sae {sae['d_sae']}, FVU {sae['fvu']:.3f}, L0 {sae['l0']:.0f}, dead {sae['frac_dead']:.1%}, "
            f"{sae['tokens_per_s']:,.0f} tokens/s; CE {ev['ce_clean']:.3f} clean, {ev['ce_sae']:.3f} spliced, {ev['ce_zero']:.3f} "
            f"zeroed, recovered {ev['ce_recovered']:.3f} | {sae['wall_s'] + ev['wall_s']:.0f} |"
        )
    lines += [
        f"| label | {label['known']} known, {label['unknown']} unknown, {label['between']} between, of "
        f"{label['known'] + label['unknown'] + label['between']} cities; {label['questions']:,} questions | {label['wall_s']:.0f} |",
        f"| mine | {len(mine['known'])} known and {len(mine['unknown'])} unknown latents selected | {mine['wall_s']:.0f} |",
        f"| unlearn | {tune['steps']} steps, relative change {tune['relative_change']:.4f} | {tune['wall_s']:.0f} |",
        f"| audit | verdict: **{audit['verdict']}** | {audit['wall_s']:.0f} |",
        f"| all | | {sum(r['wall_s'] for r in results.values()):.0f} |",
        "",
        "## Latents (selected on one half of the cities, figures on the other half)",
        "",
        "| hook point | probe AUROC (95 %) | selected latents together | FVU at names | latents with q <= 0.05 |",
        "|---|---|---|---|---|",
    ]
    for name, found in mine["hook_points"].items():
        lines.append(
            f"| {name} | {share(found['probe_auroc'])} ({share(found['probe_low'])}-{share(found['probe_high'])}) | "
            f"{share(found['score_auroc'])} | {share(found['fvu_at_names'])} | {found['n_latents_passing']} |"
        )
    lines += [
        "",
        "| direction | hook point | latent | separation | held-out (95 %) | AUROC | general rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for direction in ("known", "unknown"):
        for row in mine[direction]:
            lines.append(
                f"| {direction} | {row['hook_point']} | {row['latent']} | {row['separation']:.3f} | {row['heldout_separation']:.3f} "
                f"({row['heldout_low']:.3f}-{row['heldout_high']:.3f}) | {row['auroc']:.3f} | {share(row['general_rate'])} |"
            )
    lines += ["", "## The audit", "", "| check | value (95 %) | threshold | status |", "|---|---|---|---|"]
    for c in audit["checks"]:
        lines.append(
            f"| {c['name']} | {share(c['value'])} ({share(c['low'])}-{share(c['high'])}) | {c['rule']} {c['threshold']:.3g} | {c['status']} |"
        )
    lines += [
        "",
        "| group | n | recall before | after | truth ranked first before | after |",
        "|---|---|---|---|---|---|",
    ]
    for group in ("forget", "neighbours", "retain", "untouched"):
        g = audit[group]
        lines.append(
            f"| {group} | {g['n']} | {share(g['recall_before'])} | {share(g['recall_after'])} | {share(g.get('ranking_before'))} | "
            f"{share(g.get('ranking_after'))} |"
        )
    utility, steer = audit["utility"], audit["attacks"]["steer-back"]
    lines += [
        "",
        f"General-text loss {utility['loss_before']:.4f} -> {utility['loss_after']:.4f} nats. Recall with the original activation put "
        f"back at the name or steered: {steer['recall_after']:.2f} ({steer['setting']}).",
        "",
        "Answers about the targets, before and after:",
        "",
        "| city | question | before | after |",
        "|---|---|---|---|",
        *(f"| {a['entity']} | {a['prompt']} | {a['before']} | {a['after']} |" for a in audit["answers"]),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and, if asked, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("validation", "test"), default="test")
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    bench = run(args.model, args.data, args.out, args.part)
    if args.docs is not None:
        own = {
            k: v
            for k, v in bench.results.items()
            if not k.endswith({"test": " validation", "validation": " test"}[args.part])
        }
        args.docs.write_text(render(own, args.part), encoding="utf-8")


if __name__ == "__main__":
    main()
