"""The page that benchmarks/entities/entity_latents.py writes from its results."""

from __future__ import annotations

from typing import Any

import numpy as np


def num(value: Any, digits: int = 3) -> str:
    """Render a number, or a dash."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def render_tables(tables: dict[str, Any]) -> list[str]:
    """Render controls and covariates of one SAE."""
    lines = ["| control | AUROC (95 %) | readings | how |", "|---|---|---|---|"]
    for c in tables["controls"]:
        lines.append(
            f"| {c['name']} | {num(c['auroc'])} ({num(c['low'])}-{num(c['high'])}) | {c['n_readings']} | {c['detail']} |"
        )
    lines += ["", "| covariate | of | AUROC | inside strata | p inside | survives |", "|---|---|---|---|---|---|"]
    for c in tables["covariates"]:
        if c["subject"] in ("alone", "selected", "probe"):
            p = "–" if c["stratified_p"] is None else f"{c['stratified_p']:.1e}"
            kept = {None: "–", True: "yes", False: "no"}[c["survives"]]
            lines.append(
                f"| {c['covariate']} | {c['subject']} | {num(c['auroc'])} | {num(c['stratified'])} | {p} | {kept} |"
            )
    back: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for r in tables["stability"]:
        back.setdefault((r["kind"], r["direction"]), []).append((r["n_back"], r["n_selected"]))
    lines += [
        "",
        "| left out or changed | direction | latents that came back, of those selected, over all |",
        "|---|---|---|",
    ]
    for (kind, direction), counts in back.items():
        lines.append(
            f"| {kind} ({len(counts)}) | {direction} | {sum(a for a, _ in counts)} of {sum(b for _, b in counts)} |"
        )
    return lines


def render_worlds(worlds: dict[str, Any], hook_point: str, n_shuffles: int) -> list[str]:
    """Render the fact worlds: where their SAEs read, and how many label shuffles they were given."""
    lines = [
        "## Fact worlds",
        "",
        f"SAEs at {hook_point}, the settings of `wb demo`, seeds 0 to 4. Every SAE that was trained is in the table. The",
        "latent is the best on the mining half (MaxMin); all figures are of the held-out half, with 95 % intervals.",
        "",
        "| world | SAE seed | separation of the best unknown latent | its AUROC | selected set | probe | FVU at names |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, world in worlds.items():
        for seed, s in enumerate(world["saes"]):
            lines.append(
                f"| {name} | {seed} | {num(s['separation'])} ({num(s['low'])}-{num(s['high'])}) | {num(s['auroc'])} | "
                f"{num(s['score'])} ({num(s['score_low'])}-{num(s['score_high'])}) | {num(s['probe'])} | {num(s['fvu_at_names'])} |"
            )
    lines += [
        "",
        "| world | median separation (bar 0.6) | median AUROC (0.85) | largest probe minus selected set (0.03) | shuffles without a latent at q < 0.05 |",
        "|---|---|---|---|---|",
    ]
    for name, world in worlds.items():
        rows = world["saes"]
        gap = max(s["probe"] - (s["score"] if s["score"] is not None else 0.5) for s in rows)
        lines.append(
            f"| {name} | {num(float(np.median([s['separation'] for s in rows])))} | "
            f"{num(float(np.median([s['auroc'] for s in rows])))} | {num(gap)} | {world['silent_shuffles']} of {n_shuffles} |"
        )
    for name, world in worlds.items():
        lines += ["", f"### {name}: SAE seed 0", ""]
        lines += [f"- {f['sentence']}" for f in world["finding"]] + [""] + render_tables(world["saes"][0]["tables"])
    return lines


def render_cities(found: dict[str, Any]) -> list[str]:
    """Render the real model."""
    lines = [
        "## SmolLM2-135M-Instruct, Wikidata cities",
        "",
        f"{found['n_known']} known and {found['n_unknown']} unknown cities. Every setting that was tried is listed; the one chosen has the",
        "largest cross-validated AUROC on the mining half. One type of name, so that MaxMin is the separation itself.",
        "",
        *(f"- {f['sentence']}" for f in found["finding"]),
        "",
        "| hook point | SAE | at most | known + unknown latents | mining half | held-out (95 %) | probe (95 %) | FVU at names |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for t in found["tried"]:
        chosen = found["best"] is not None and all(t[k] == found["best"][k] for k in ("hook_point", "sae", "top"))
        mark = "**" if chosen else ""
        lines.append(
            f"| {mark}{t['hook_point']}{mark} | {t['sae']} | {t['top']} | {t['n_known']} + {t['n_unknown']} | {num(t['mining'].get('score'))} | "
            f"{num(t['score'])} ({num(t['low'])}-{num(t['high'])}) | {num(t['probe'])} ({num(t['probe_low'])}-{num(t['probe_high'])}) | {num(t['fvu_at_names'])} |"
        )
    best = found["best"]
    if best is not None:
        lines += [
            "",
            f"Bars: held-out AUROC >= 0.80, and >= probe - 0.08: {num(best['score'])} against {num(best['probe'])}.",
            "",
        ]
        lines += render_tables(best["tables"])
        lines += [
            "",
            "| direction | latent | separation | held-out (95 %) | AUROC | rate on text |",
            "|---|---|---|---|---|---|",
        ]
        for direction, rows in best["rows"].items():
            for r in rows:
                lines.append(
                    f"| {direction} | {r['latent']} | {num(r['separation'])} | {num(r['heldout_separation'])} "
                    f"({num(r['heldout_low'])}-{num(r['heldout_high'])}) | {num(r['auroc'])} | {num(r['general_rate'], 4)} |"
                )
    return lines


def render(results: dict[str, Any], *, hook_point: str, n_shuffles: int) -> str:
    """Write the page of all parts that were run."""
    lines = [
        "# Latents that tell known from unknown entities",
        "",
        "Made again by `python -m benchmarks.entities.entity_latents` (its docstring says how). What the columns mean: docs/reference/formats.md.",
        "",
    ]
    if "fact-world" in results:
        lines += [*render_worlds(results["fact-world"], hook_point, n_shuffles), ""]
    if "cities" in results:
        lines += [*render_cities(results["cities"]), ""]
    if "speed" in results:
        s = results["speed"]
        lines += [
            "## Speed",
            "",
            f"{s['n_latents']:,} latents, {s['n_entities']:,} entities, {s['n_templates']} templates: all tests {num(s['tests_s'], 2)} s, the loop over",
            f"latents with the same scipy tests {num(s['loop_s'], 0)} s ({s['loop_sample']} latents timed, scaled): {num(s['times'], 0)} times (bar 50).",
            f"Averaging over templates {num(s['average_s'], 2)} s, {s['n_label_shuffles']} label shuffles of the MaxMin statistic {num(s['null_s'], 2)} s.",
            "",
        ]
    return "\n".join(lines)
