"""The page of `smollm2.py`, made from what its stations printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from features.causal.gate import CONDITIONS
from unlearn.auditing.audit_json import report_from_json
from unlearn.auditing.audit_report import AuditReport

COLUMNS = ("clean", *CONDITIONS)


def share(value: float | None) -> str:
    """Render a share, or a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def spread(found: list[float] | None) -> str:
    """Render a value with its interval, or a dash."""
    return "–" if found is None else f"{found[0]:.2f} ({found[1]:.2f}-{found[2]:.2f})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table's lines, and an empty one."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]


def render(results: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page of docs from the results."""
    return "\n".join(
        [
            "# The whole thread on a real language model",
            "",
            "SmolLM2-135M-Instruct (GGUF, Q4_1, dequantised to float32), WikiText-2 validation text, Wikidata cities; one seed.",
            "Made again by",
            "",
            "    python -m benchmarks.unlearning.smollm2 --model SmolLM2-135M-Instruct.Q4_1.gguf --data DATA --out RUN --docs docs/results/smollm2.md",
            "",
            *_stations(results),
            *_latents(results["mine"]),
            *_gate(results["mine"]),
            *_audits(results, {m: s for m, s in methods.items() if f"audit {m}" in results}),
        ]
    )


def _stations(results: Mapping[str, Any]) -> list[str]:
    """Say what the stations up to mining gave."""
    cache, label, mine = (results[name] for name in ("cache", "label", "mine"))
    rows = [
        [
            "cache",
            f"{cache['n_rows']:,} rows at {len(cache['hook_points'])} hook points, {cache['n_entity_rows']:,} of them last name "
            f"tokens of other cities; {cache['tokens_per_s']:,.0f} tokens/s",
            cache,
        ]
    ]
    rows += [
        [
            name,
            f"d_sae {found['d_sae']}, FVU {found['fvu']:.3f}, L0 {found['l0']:.0f}, dead {found['frac_dead']:.1%}",
            found,
        ]
        for name, found in results.items()
        if name.startswith("sae ")
    ]
    n = label["known"] + label["unknown"] + label["between"]
    rows += [
        [
            "label",
            f"{label['known']} known, {label['unknown']} unknown, {label['between']} between, of {n} cities",
            label,
        ],
        [
            "mine, gate, steering",
            f"{len(mine['known'])} known and {len(mine['unknown'])} unknown latents selected",
            mine,
        ],
    ]
    return [
        "## What each station gave",
        "",
        *table(
            ["station", "figures", "seconds"],
            [[a, b, f"{c['wall_s']:.0f}" if "wall_s" in c else "–"] for a, b, c in rows],
        ),
    ]


def _latents(mine: Mapping[str, Any]) -> list[str]:
    """Show what the latents tell."""
    points = [
        [
            name,
            f"{share(p['probe_auroc'])} ({share(p['probe_low'])}-{share(p['probe_high'])})",
            f"{share(p['score_auroc'])} ({share(p['score_low'])}-{share(p['score_high'])})",
            share(p["fvu_at_names"]),
            str(p["n_latents_passing"]),
        ]
        for name, p in mine["hook_points"].items()
    ]
    rows = [
        [
            direction,
            row["hook_point"],
            str(row["latent"]),
            f"{row['separation']:.3f}",
            f"{row['heldout_separation']:.3f} ({row['heldout_low']:.3f}-{row['heldout_high']:.3f})",
            f"{row['auroc']:.3f}",
            share(row["general_rate"]),
        ]
        for direction in ("known", "unknown")
        for row in mine[direction]
    ]
    head = [
        "hook point",
        "probe AUROC (95 %)",
        "selected latents together (95 %)",
        "FVU at names",
        "latents with q <= 0.05",
    ]
    return [
        "## Latents (selected on one half of the cities, figures on the other half)",
        "",
        *table(head, points),
        *table(["direction", "hook point", "latent", "separation", "held-out (95 %)", "AUROC", "general rate"], rows),
    ]


def _gate(mine: Mapping[str, Any]) -> list[str]:
    """Show the gate."""
    gate = mine.get("gate")
    if not gate:
        return []
    points = [
        [
            p["hook_point"],
            *(spread(p["recall"].get(c)) for c in COLUMNS),
            spread(p["passing"]),
            spread(p.get("frac_taken", p.get("share", {})).get("latents")),
            "yes" if p["passes"] else "no",
        ]
        for p in gate["hook_points"]
    ]
    blocks = [
        [b["hook_point"], spread(b["recall"]["residual"]), spread(b["recall"]["last residual"])] for b in gate["blocks"]
    ]
    return [
        f"## The gate: recall with another activation at the name ({gate['n_entities']} cities, {gate['n_questions']} questions)",
        "",
        *table(["hook point", *COLUMNS, "passing", "share of all latents", "passed"], points),
        f"Recommended: {gate['recommended'] or 'none'}.",
        "",
        *(table(["block", "residual", "last residual"], blocks) if blocks else []),
    ]


def _audits(results: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Put the audits of one request side by side."""
    audits = [report_from_json(results[f"audit {m}"], name=f"audit {m}") for m in methods]
    if not audits:
        return []
    first = audits[0]
    rows = _said(audits)
    for name, attack in first.attacks.items():
        found = [a.attacks[name] for a in audits]
        cells = [f"{f.recall_after.value:.2f} ({f.compared.high:.2f})" for f in found]
        rows.append([f"recall after {name} (never known, upper end)", share(attack.worst.before), *cells])
    rows.append(["verdict", "", *(a.verdict for a in audits)])
    rows.append(["seconds to unlearn", "", *(f"{results[f'unlearn {m}']['wall_s']:.0f}" for m in methods)])
    rows.append(["seconds to audit", "", *(f"{results[f'audit {m}']['wall_s']:.0f}" for m in methods)])
    answers = [
        [a.prompt, a.before, *(other.answers[i].after for other in audits)]
        for i, a in enumerate(first.answers)
        if i % 3 == 0
    ]
    settings = "; ".join(
        f"{m}: {', '.join(f'{k} {v}' for k, v in s.items()) or 'defaults'}" for m, s in methods.items()
    )
    failed = [", ".join(c.name for c in a.checks if c.status == "fail") or "no check failed" for a in audits]
    return [
        "## One removal, several methods, one audit each",
        "",
        f"Targets, together: {', '.join(first.request.forget)}. Settings, not tuned: {settings}.",
        "",
        *table(["", "before", *methods], rows),
        *(f"- **{m}** fails: {names}." for m, names in zip(methods, failed, strict=True)),
        "",
        *table(["question", "before", *methods], answers),
    ]


def _said(audits: Sequence[AuditReport]) -> list[list[str]]:
    """Return the rows of what is said about each group, and of the price."""
    shown = (
        ("target recall", [a.forget.recall for a in audits]),
        ("true answer ranked first", [a.forget.ranking for a in audits]),
        ("recall of neighbours", [a.neighbours.recall for a in audits]),
        ("recall of other known cities", [a.retain.recall for a in audits]),
        ("... of those never retained", [a.untouched.recall for a in audits]),
    )
    rows = [
        [
            title,
            share(figures[0] and figures[0].before.value),
            *(share(figure and figure.after.value) for figure in figures),
        ]
        for title, figures in shown
    ]
    prices = [a.utility for a in audits if a.utility is not None]
    losses = [f"{price.loss_after:.3f}" for price in prices]
    return [*rows, ["loss on general text (nats)", f"{prices[0].loss_before:.3f}", *losses]]
