"""`audit.html`: one audit as a page to look at: verdict and what decides it, before and after, the walk, answers."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup

from features.plots import (
    FAINT,
    INK,
    KNOWN,
    MUTED,
    NBSP,
    TARGET,
    UNKNOWN,
    Number,
    Series,
    interval_rows,
    is_number,
    percent,
)
from features.report import environment, figure_text, listed
from sae_train.runs import write_text
from unlearn import plots
from unlearn.compare_report import compare_view, has_price, walked
from unlearn.verdict import loss_rise

TEMPLATES = Path(__file__).parent / "templates"
MANY = 4  # names above this are folded away
STATUS_MARKS = {"pass": "✓", "fail": "✕", "inconclusive": "?"}
VERDICT_WORDS = {"pass": "Passed", "fail": "Failed", "inconclusive": "Undecided"}
# Key in the audit, figure, names of the checks that set its limit, title, colour, what it is.
HEADLINES = (
    ("forget", "recall", ("target recall",), "Target recall", TARGET, "right answers about the names to forget"),
    (
        "forget",
        "ranking",
        ("target ranking", "true answer ranked first"),
        "Target ranking",
        TARGET,
        "true answer ranked first among candidates",
    ),
    (
        "neighbours",
        "recall",
        ("neighbours recall", "recall lost by neighbours"),
        "Neighbours’ recall",
        KNOWN,
        "right answers about the known names most like them",
    ),
    (
        "retain",
        "recall",
        ("retained recall", "recall lost by other known entities"),
        "Retained recall",
        KNOWN,
        "right answers about other known names",
    ),
)
# Behaviour: colour and opacity, in the order of the bar.
BEHAVIOUR = {
    "leak": (TARGET, 1.0),
    "confabulation": (FAINT, 0.55),
    "unknown": (UNKNOWN, 1.0),
    "refusal": (UNKNOWN, 0.55),
    "off-topic": (MUTED, 0.55),
    "gibberish": (INK, 0.85),
}


def write_audit_page(audit: dict[str, Any], path: Path) -> Path:
    """Write `audit.html` whole from what `audit.json` holds, and return its path."""
    pages = environment(TEMPLATES)
    pages.filters["change"] = change_text
    template = pages.get_template("audit.html.j2")
    write_text(path, template.render(_view(audit)))
    return path


def deciding_checks(checks: list[dict[str, Any]], most: int = 3) -> list[dict[str, Any]]:
    """Return the checks that decide the verdict: all failed ones, else undecided ones, else the tightest."""
    order = {"fail": 0, "inconclusive": 1}
    ranked = sorted(checks, key=lambda c: (order.get(c["status"], 2), check_margin(c)))
    worst = order.get(ranked[0]["status"], 2) if ranked else 2  # failures make the open checks beside them unimportant
    n_deciding = sum(order.get(c["status"], 2) == worst for c in checks) if worst < 2 else 0
    return ranked[: max(most, n_deciding)]


def check_margin(check: dict[str, Any]) -> float:
    """Return how far the unfavourable end of a check's interval lies on the good side of its threshold.

    Negative if it lies beyond; infinite if there is no number or no one-sided rule.
    """
    threshold, rule = check["threshold"], check["rule"]
    end = check["high"] if rule in ("<=", "<") else check["low"]
    value = end if is_number(end) else check["value"]
    if rule not in ("<=", "<", ">=", ">") or not is_number(value) or not is_number(threshold):
        return float("inf")
    return float(threshold - value if rule in ("<=", "<") else value - threshold)


def headline(audit: dict[str, Any]) -> str:
    """Say the verdict in a sentence that claims no more than was tested."""
    names, checks = audit["request"]["forget"], audit["checks"]
    who = names[0] if len(names) == 1 else f"{len(names)} names"
    counts = {s: sum(c["status"] == s for c in checks) for s in STATUS_MARKS}
    if audit["verdict"] == "pass":
        return f"{who}: forgotten, as far as was tested."
    if audit["verdict"] == "fail":
        return f"{who}: not cleanly forgotten. {counts['fail']}{NBSP}of{NBSP}{len(checks)} checks failed."
    verb = "is" if counts["inconclusive"] == 1 else "are"
    return f"{who}: undecided. {counts['inconclusive']}{NBSP}of{NBSP}{len(checks)} checks {verb} inconclusive."


def _view(audit: dict[str, Any]) -> dict[str, Any]:
    """Return everything the template shows."""
    request = audit["request"]
    model = PurePath(str(request.get("model") or "the model")).name
    return {
        "title": f"Audit: {listed(request['forget'])}",
        "kind": "Audit of one removal request",
        "subject": f"{model}, method {request.get('method') or 'not named'}",
        "model": model,
        "method": request.get("method"),
        "hook_point": request.get("hook_point"),
        "headline": headline(audit),
        "request": request,
        "fold_names": len(request["forget"]) > MANY,
        "names": listed(request["forget"]),
        "verdict": audit["verdict"],
        "verdict_word": VERDICT_WORDS[audit["verdict"]],
        "marks": STATUS_MARKS,
        "rules": {"<=": "≤", ">=": "≥"},
        "deciding": deciding_checks(audit["checks"]),
        "checks": audit["checks"],
        "headlines": [_headline_panel(audit, *h) for h in HEADLINES if f"{h[1]}_after" in audit.get(h[0], {})],
        "chance": audit.get("ranking_chance"),
        "utility": _utility(audit),
        "gibberish": _behaviour_share(audit, "gibberish"),
        **_inside(audit),
        "compare": compare_view(audit),
        "benchmarks": [
            (task, t["n"], m, v) for task, t in audit.get("lm_eval", {}).items() for m, v in t["metrics"].items()
        ],
        "behaviour": _behaviour(audit),
        "attacks": _attacks(audit),
        "answers": _answers(audit),
        "not_tested": audit["not_tested"],
        "provenance": _provenance(audit),
    }


def _headline_panel(
    audit: dict[str, Any], group: str, figure: str, checks: tuple[str, ...], title: str, colour: str, text: str
) -> dict[str, Any]:
    """Return one before/after panel of the first screen."""
    found = audit[group]
    before, after = ([found[f"{figure}_{when}{end}"] for end in ("", "_low", "_high")] for when in ("before", "after"))
    threshold, limit = _limit(audit, checks, before[0], after[0])
    chance = audit.get("ranking_chance") if figure == "ranking" else None
    svg = plots.before_after(
        f"{group}-{figure}",
        title,
        (before[0], before[1], before[2]),
        (after[0], after[1], after[2]),
        colour=colour,
        threshold=threshold,
        chance=chance,
    )
    n = found.get("n")
    return {
        "title": title,
        "text": text,
        "count": f"{n:,}{NBSP}name{'' if n == 1 else 's'}" if is_number(n) else "",
        "notes": "; ".join(filter(None, [limit, f"chance: {percent(chance)}" if is_number(chance) else ""])),
        "svg": Markup(svg),
    }


def _limit(audit: dict[str, Any], names: tuple[str, ...], before: Number, after: Number) -> tuple[Number, str]:
    """Return where a figure's limit lies on its own axis, and the limit in words.

    A check judges either the figure itself or what was lost of it; one that judges anything else has no place there.
    """
    rules = {"<=": "at most", "<": "below", ">=": "at least", ">": "above"}
    for check in audit["checks"]:
        value, threshold = check["value"], check["threshold"]
        if check["name"] not in names or not is_number(value) or not is_number(threshold) or not is_number(after):
            continue
        if abs(value - after) < 1e-9:
            return threshold, f"limit: {rules.get(check['rule'], check['rule'])} {percent(threshold)}"
        if is_number(before) and abs(value - (before - after)) < 1e-9 and check["rule"] == "<=":
            return before - threshold, f"limit: at most {100 * threshold:.1f} points lost".replace(".0 ", " ")
    return None, ""


def _utility(audit: dict[str, Any]) -> dict[str, str]:
    """Return the loss on general text before and after."""
    found = audit.get("utility", dict.fromkeys(("loss_before", "loss_after", "n_tokens", "text")))
    before, after = found["loss_before"], found["loss_after"]
    tokens = f"{found['n_tokens']:,} tokens of {found['text']}" if is_number(found["n_tokens"]) else ""
    return {
        "change": change_text(loss_rise(audit)),
        "text": f"{figure_text(before)} → {figure_text(after)} nats per token",
        "tokens": tokens,
    }


def change_text(share: Number) -> str:
    r"""Return a relative change as a percentage with its sign; a dash where there is none.

    Example:
        >>> change_text(-0.0312), change_text(0.0), change_text(None)
        ('−3.1\xa0%', '+0.0\xa0%', '–')
    """
    return f"{100 * share:+.1f}{NBSP}%".replace("-", "−") if is_number(share) else "–"


def _behaviour_share(audit: dict[str, Any], part: str) -> dict[str, Any]:
    """Return a share of the answers before and after."""
    return {when: audit.get("behaviour", {}).get(when, {}).get(part) for when in ("before", "after")}


def _inside(audit: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of the inside; none without text loss and behaviour, since a destroyed model looks well."""
    if not has_price(audit):
        return {"walks": [], "indistinguishability": None, "probe": None, "is_unpriced": True}
    found = {"walks": _walks(audit), "indistinguishability": _indistinguishability(audit), "probe": _probe(audit)}
    return {**found, "is_unpriced": False}


def _walks(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one panel per hook point."""
    return [
        {
            "hook_point": name,
            "svg": Markup(
                plots.walk(
                    f"walk-{i}",
                    name,
                    *(w[k] for k in ("known", "unknown", "before", "after", "names")),
                    others=walked(audit, name),
                )
            ),
        }
        for i, (name, w) in enumerate(audit.get("walk", {}).items())
    ]


def _indistinguishability(audit: dict[str, Any]) -> dict[str, Any] | None:
    """Return the figure and the table of the fresh classifier."""
    found = audit.get("indistinguishability")
    if not found:
        return None
    rows = list(found.values())
    none = [None] * len(rows)
    value, low, high = ([r[k] for r in rows] for k in ("auroc", "auroc_low", "auroc_high"))
    series = [
        Series([r["auroc_before"] for r in rows], none, none, MUTED, filled=False),
        Series(value, low, high, TARGET),
    ]
    spoken = "; ".join(
        f"{name}: before {figure_text(r['auroc_before'], 2)}, after {figure_text(r['auroc'], 2)}, "
        f"control {figure_text(r['control_low'], 2)} to {figure_text(r['control_high'], 2)}"
        for name, r in found.items()
    )
    bands = [(r["control_low"], r["control_high"]) for r in rows]
    svg = interval_rows("auroc", f"AUROC of a fresh classifier. {spoken}", list(found), series, bands=bands)
    measured = [(r["auroc"], low, high) for r, (low, high) in zip(rows, bands, strict=True)]
    measured = [m for m in measured if all(map(is_number, m))]
    inside = sum(low <= value <= high for value, low, high in measured)
    limits = {c["name"]: c["threshold"] for c in audit["checks"] if is_number(c["threshold"])}
    drawn = {name: limits.get(f"AUROC at {name}") for name in found}
    return {
        "svg": Markup(svg),
        "rows": list(found.items()),
        "inside": f"{inside} of {len(measured)} hook points" if measured else "none was measured",
        "limits": _limits([v for v in drawn.values() if v is not None]),
    }


def _limits(values: list[float]) -> str:
    """Say between which limits the verdict goes by."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"The verdict’s limit: {low:.2f}" + ("" if high - low < 0.005 else f" to {high:.2f}, place by place")


def _probe(audit: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the original model's own probe says of the targets."""
    found = audit.get("probe")
    if not found:
        return None
    rows = [
        ("targets before", found["unknown_before"], TARGET, 0.32),
        ("targets after", found["unknown_after"], TARGET, 1.0),
        ("really unknown names", found["unknown_control"], UNKNOWN, 1.0),
    ]
    low, high = found["unknown_after_low"], found["unknown_after_high"]
    spread = f"After: 95 % interval {percent(low)} to {percent(high)}." if is_number(low) and is_number(high) else ""
    if not any(c["name"] == "called unknown" for c in audit["checks"]):
        spread += (
            " It no longer knows really unknown names for unknown: it does not read the new model and decides nothing."
        )
    svg = plots.value_bars("probe", "Share that the old probe calls unknown", rows)
    return {"svg": Markup(svg), "hook_point": found["hook_point"], "interval": spread}


def _behaviour(audit: dict[str, Any]) -> Markup | None:
    """Return the stacked bars of what the answers are."""
    rows = {when: audit.get("behaviour", {}).get(when, {}) for when in ("before", "after")}
    if not any(is_number(v) for shares in rows.values() for v in shares.values()):
        return None
    return Markup(plots.share_bars("behaviour", "What the answers about the targets are", rows, BEHAVIOUR))


def _attacks(audit: dict[str, Any]) -> dict[str, Any] | None:
    """Return the figure and the table of the attacks."""
    found = audit.get("attacks")
    if not found:
        return None
    rows = []
    for name, result in found.items():
        rows.append((name, result["recall_after"], TARGET, 1.0))
        if is_number(result.get("compared_value")):
            rows.append((f"vs {result.get('compared_with') or 'control'}", result["compared_value"], FAINT, 0.7))
    curve = found.get("relearn", {}).get("curve", [])
    return {
        "svg": Markup(plots.value_bars("attacks", "Recall after each attack", rows)),
        "rows": list(found.items()),
        "relearning": Markup(plots.attack_curves("relearning", "Untaught facts after lessons about others", curve))
        if any(point["step"] for point in curve)
        else None,
    }


def _answers(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers by entity, in the order they were asked."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for answer in audit.get("answers", []):
        grouped.setdefault(answer["entity"], []).append(answer)
    return [
        {
            "entity": name,
            "type": rows[0]["type"],
            "rows": rows,
            "right": {when: sum(r[f"verdict_{when}"] == "right" for r in rows) for when in ("before", "after")},
        }
        for name, rows in grouped.items()
    ]


def _provenance(audit: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the figures were made from."""
    names = {"model": "original model", "unlearned": "unlearned model", "sae": "SAE"}
    found: list[tuple[str, str]] = [
        (names.get(str(k)) or str(k).replace("_", " "), str(v)) for k, v in audit["request"].items() if k != "forget"
    ]
    for part, title in (("policy", "limits"), ("config", "settings")):
        values = audit.get(part) or {}
        if values:
            found.append((title, ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in values.items())))
    seconds = f"{audit['seconds']:,.1f} s" if is_number(audit["seconds"]) else "–"
    schema = f"{audit['schema']}, version {audit['schema_version']}"
    return [*found, ("created", str(audit["created"])), ("took", seconds), ("schema", schema)]
