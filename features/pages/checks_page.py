"""Sections of `latents.html`: null, controls, gate, steering, max-activating examples and logit-lens tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from features.analysis.causal_results import Gate, HookPointGate, SteeringCurve
from features.analysis.evidence import LatentEvidence, Snippet
from features.analysis.store import LatentAnalysis
from features.analysis.tables import Row
from features.pages import latents_plots
from features.pages.plots import is_number, percent
from features.stats.selection import DIRECTIONS
from sae_train.intervals import Interval

TABLE_TITLES = {
    "controls": (
        "What else tells known from unknown",
        "AUROC on the held-out names. Latents drawn at random, raw dimensions and a plain direction say how special "
        "the selected ones are; the probe says how much there is to find.",
    ),
    "covariates": (
        "Knowing, or only length and fame?",
        "The same comparison among names that are alike in one respect. An effect that survives the matching is not "
        "about that respect.",
    ),
    "stability": (
        "Does it come back?",
        "The same search without a template or a type, or with another dictionary: how many of the selected latents "
        "are found again.",
    ),
}
TAKEN = {  # conditions whose part of what passes is said in the table
    "latents": "all latents",
    "selected": "selected",
    "random": "random",
    "error": "SAE error",
    "reconstruction": "lost by the reconstruction",
    "mean difference": "difference of means",
}
MAX_TABLE_ROWS = 40


def checks_view(analysis: LatentAnalysis) -> dict[str, Any]:
    """Return the parts of the page; what was not measured is empty."""
    return {
        "nulls": _nulls(analysis),
        "tables": _tables(analysis),
        "gate": None if analysis.gate is None else _gate_view(analysis.gate),
        "steering": _steering_view(analysis.steering),
        "evidence": [_evidence_view(analysis, found) for found in analysis.evidence],
    }


def parts_of(view: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the parts of the page that are there, for the links at its top."""
    parts = [
        ("types", "types of names", bool(view["figures"]["types"])),
        ("evidence", "strength of the evidence", True),
        ("null", "permutation null", bool(view["nulls"])),
        ("selected", "selected latents", True),
        ("evidence-latents", "contexts and words", bool(view["evidence"])),
        ("gate", "the gate", True),
        ("steering", "steering", bool(view["steering"])),
        *((table["name"], table["name"], True) for table in view["tables"]),
        ("hook-points", "hook points", True),
        ("method", "method", True),
    ]
    return [(name, text) for name, text, is_there in parts if is_there]


def with_cards(view: dict[str, Any]) -> list[tuple[str, Row]]:
    """Return the rows of the table of latents, each with the id of its card of contexts, if it has one."""
    cards = {(one["hook_point"], one["latent"]): one["id"] for one in view["evidence"]}
    return [(d, {**row, "card": cards.get((row["hook_point"], row["latent"]))}) for d, row in view["rows"]]


def _nulls(analysis: LatentAnalysis) -> list[dict[str, Any]]:
    """Return the permutation null of each direction beside the best MaxMin of the real labels."""
    found = []
    for row in analysis.tables.get("finding", []):
        null = analysis.null(row["direction"])
        observed = row.get("best_maxmin")
        if null is None or len(null) == 0 or not is_number(observed):
            continue
        key = f"null-{row['direction']}"
        figure = latents_plots.null_histogram(key, row["direction"], null, float(observed))
        found.append({"direction": row["direction"], "figure": Markup(figure), "p": row.get("p_value"), "n": len(null)})
    return found


def _tables(analysis: LatentAnalysis) -> list[dict[str, Any]]:
    """Return the tables of the statistics that have rows, hook points one below the other."""
    found = []
    for name, (title, text) in TABLE_TITLES.items():
        rows = [{"hook_point": h.hook_point, **row} for h in analysis.hook_points for row in h.tables.get(name, [])]
        if rows:
            heads = list(dict.fromkeys(k for row in rows for k in row))
            found.append(
                {
                    "name": name,
                    "title": title,
                    "text": text,
                    "heads": [h.replace("_", " ") for h in heads],
                    "rows": [[_cell(row, h) for h in heads] for row in rows[:MAX_TABLE_ROWS]],
                    "left_out": max(0, len(rows) - MAX_TABLE_ROWS),
                }
            )
    return found


def _cell(row: Row, head: str) -> dict[str, Any]:
    """Return a value for a table cell: is it text, and what is shown."""
    value = row.get(head)
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return {"value": value, "is_text": isinstance(value, str)}


def _gate_view(gate: Gate) -> dict[str, Any]:
    """Return the gate's figures, its table and its verdict."""
    where = gate.recommended
    tokens = "all tokens of the name" if gate.config.tokens == "all" else "the last token of the name"
    return {
        "verdict": "pass" if gate.passes else "fail",
        "sentence": f"The gate is passed; unlearning is best aimed at {where}."
        if where
        else "The gate is not passed at any hook point with a dictionary.",
        "tokens": tokens,
        "n_entities": len(gate.entities),
        "n_prompts": gate.n_prompts,
        "config": gate.config,
        "figures": [
            (h.hook_point, Markup(latents_plots.gate_bars(f"gate-{i}", h))) for i, h in enumerate(gate.hook_points)
        ],
        "blocks": Markup(latents_plots.block_sweep(gate.blocks)) if gate.blocks else None,
        "rows": [_gate_row(h) for h in gate.hook_points],
        "heads": list(TAKEN.values()),
    }


def _gate_row(found: HookPointGate) -> dict[str, Any]:
    """Return one line of the gate's table."""
    return {
        "name": found.hook_point,
        "sae": found.sae,
        "recall": found.interval("clean"),
        "passing": found.passing,
        "shares": [found.frac_taken(name) for name in TAKEN],
        "verdict": "pass" if found.passes else "fail",
        "reasons": found.reasons,
    }


def frac_text(interval: Interval) -> str:
    """Return a share with its interval in percent, or a dash.

    Example:
        >>> frac_text(Interval(0.5, 0.25, 0.75)).replace("\u00a0", " ")
        '50 % [25, 75]'
    """
    if not is_number(interval.value):
        return "–"
    return f"{percent(interval.value)} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _steering_view(curves: Sequence[SteeringCurve]) -> list[dict[str, Any]]:
    """Return one figure per hook point and direction: selected latents beside random ones."""
    groups: dict[tuple[str, str, str], list[SteeringCurve]] = {}
    for curve in curves:
        groups.setdefault((curve.hook_point, curve.sae, curve.direction), []).append(curve)
    found = []
    for index, ((hook_point, _, direction), pair) in enumerate(groups.items()):
        own = next(c for c in pair if c.kind == "selected")
        other = next((c for c in pair if c.kind == "random"), None)
        found.append(
            {
                "hook_point": hook_point,
                "direction": direction,
                "names": "unknown" if direction == "known" else "known",
                "n": len(own.latents),
                "figure": Markup(latents_plots.steering_lines(f"steering-{index}", pair)),
                "loss": list(
                    zip(own.strengths, own.text_loss, other.text_loss if other else own.text_loss, strict=True)
                )
                if is_number(own.text_loss[0])
                else [],
            }
        )
    return found


def _evidence_view(analysis: LatentAnalysis, found: LatentEvidence) -> dict[str, Any]:
    """Return one latent's card."""
    mined = next((h for h in analysis.hook_points if h.hook_point == found.hook_point and h.sae == found.sae), None)
    sides = [d for d in DIRECTIONS if mined is not None and found.latent in mined.selected[d]]
    return {
        "id": f"latent-{found.hook_point}-{found.latent}".replace(".", "-"),
        "latent": found.latent,
        "hook_point": found.hook_point,
        "direction": sides[0] if sides else "known",
        "snippets": [_shaded(s) for s in found.snippets],
        "promoted": [shown_token(t) for t in found.promoted],
        "suppressed": [shown_token(t) for t in found.suppressed],
    }


def _shaded(snippet: Snippet) -> dict[str, Any]:
    """Return a snippet's tokens with how strongly each is shaded, in percent of the strongest."""
    most = max(snippet.values)
    shades = [round(100 * max(0.0, v) / most) for v in snippet.values]
    tokens = [
        {
            "text": (t.lstrip(" ") if i == 0 else t).replace("\n", "⏎"),
            "shade": s,
            "value": v,
            "is_peak": i == snippet.peak,
        }
        for i, (t, s, v) in enumerate(zip(snippet.tokens, shades, snippet.values, strict=True))
    ]
    return {"tokens": tokens, "value": most}


def shown_token(text: str) -> str:
    """Return a token as one sees it: line breaks and lone spaces get a sign.

    Example:
        >>> shown_token(" Kenya"), shown_token("\\n"), shown_token(" ")
        ('Kenya', '⏎', '␣')
    """
    plain = text.replace("\n", "⏎").replace("\t", "⇥")
    return plain.strip() or "␣"
