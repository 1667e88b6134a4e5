"""`audit.html`: the page of one audit: verdict and checks, before and after, the walk, sample answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup

from features.pages.latents_page import environment, figure_text, listed
from features.pages.plots import (
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
from sae_train.run.runs import write_text
from unlearn.auditing.audit_figures import AnsweredQuestion, Figure, GroupResult
from unlearn.auditing.audit_json import SCHEMA, VERSION
from unlearn.auditing.audit_report import AuditReport, Check
from unlearn.pages import plots
from unlearn.pages.attack_view import attack_view
from unlearn.pages.compare_page import compare_view, has_price, walked
from unlearn.pages.crosscoder_view import crosscoder_view
from unlearn.pages.detection_view import detection_view
from unlearn.pages.inner_view import inner_view
from unlearn.pages.spread_view import spread_view
from unlearn.pages.story_view import Story

TEMPLATES = Path(__file__).parent / "templates"
MANY = 4  # names above this are folded away
STATUS_MARKS = {"pass": "✓", "fail": "✕", "inconclusive": "?"}
VERDICT_WORDS = {"pass": "Passed", "fail": "Failed", "inconclusive": "Undecided"}


@dataclass(frozen=True)
class Headline:
    """One before/after panel of the first screen.

    Attributes:
        key: Of the figure, unique in the page.
        title, text: What it is, in few words and in more.
        check: Name of the check that sets its limit.
        colour: Of the bars.
        group: The group of entities that it is about.
        figure: What is shown.
        chance: What chance alone gives, where that means anything.
    """

    key: str
    title: str
    text: str
    check: str
    colour: str
    group: GroupResult
    figure: Figure
    chance: Number = None


# Behaviour: colour and opacity, in the order of the bar.
BEHAVIOUR = {
    "leak": (TARGET, 1.0),
    "confabulation": (FAINT, 0.55),
    "unknown": (UNKNOWN, 1.0),
    "refusal": (UNKNOWN, 0.55),
    "off-topic": (MUTED, 0.55),
    "gibberish": (INK, 0.85),
}


def write_audit_page(report: AuditReport, path: Path, *, story: Story | None = None) -> Path:
    """Write the page of an audit whole, and return its path; a story of what was done before comes first."""
    pages = environment(TEMPLATES)
    pages.filters["change"] = change_text
    template = pages.get_template("audit.html.j2")
    write_text(path, template.render({**_view(report), "story": story}))
    return path


def deciding_checks(checks: Sequence[Check], most: int = 3) -> list[Check]:
    """Return the checks that decide the verdict: all failed ones, else undecided ones, else the tightest."""
    order = {"fail": 0, "inconclusive": 1}
    ranked = sorted(checks, key=lambda c: (order.get(c.status, 2), check_margin(c)))
    worst = order.get(ranked[0].status, 2) if ranked else 2  # failures make the open checks beside them unimportant
    n_deciding = sum(order.get(c.status, 2) == worst for c in checks) if worst < 2 else 0
    return ranked[: max(most, n_deciding)]


def check_margin(check: Check) -> float:
    """Return how far the unfavourable end of a check's interval lies on the good side of its threshold.

    Negative if it lies beyond; infinite if there is no number.
    """
    is_most = check.rule == "<="
    end = check.high if is_most else check.low
    value = end if is_number(end) else check.value
    if not is_number(value) or not is_number(check.threshold):
        return float("inf")
    return check.threshold - value if is_most else value - check.threshold


def headline(report: AuditReport) -> str:
    """Say the verdict in a sentence that claims no more than was tested."""
    names, n = report.request.forget, len(report.checks)
    who = names[0] if len(names) == 1 else f"{len(names)} names"
    counts = {s: sum(c.status == s for c in report.checks) for s in STATUS_MARKS}
    if report.verdict == "pass":
        return f"{who}: forgotten, as far as was tested."
    if report.verdict == "fail":
        return f"{who}: not cleanly forgotten. {counts['fail']}{NBSP}of{NBSP}{n} checks failed."
    verb = "is" if counts["inconclusive"] == 1 else "are"
    return f"{who}: undecided. {counts['inconclusive']}{NBSP}of{NBSP}{n} checks {verb} inconclusive."


def _view(report: AuditReport) -> dict[str, Any]:
    """Return everything the template shows."""
    request = report.request
    model = PurePath(request.model or "the model").name
    return {
        "title": f"Audit: {listed(list(request.forget))}",
        "kind": "Audit of one removal request",
        "subject": f"{model}, method {request.method or 'not named'}",
        "model": model,
        "method": request.method,
        "hook_point": request.hook_point,
        "headline": headline(report),
        "request": request,
        "fold_names": len(request.forget) > MANY,
        "names": listed(list(request.forget)),
        "verdict": report.verdict,
        "verdict_word": VERDICT_WORDS[report.verdict],
        "marks": STATUS_MARKS,
        "rules": {"<=": "≤", ">=": "≥"},
        "deciding": deciding_checks(report.checks),
        "checks": report.checks,
        "headlines": [_headline_panel(report, h) for h in headlines(report)],
        "utility": _utility(report),
        "gibberish": _gibberish(report),
        **inner_view(report),
        **_inside(report),
        "compare": compare_view(report),
        "benchmarks": [(task, t.n, m, v) for task, t in report.lm_eval.items() for m, v in t.metrics.items()],
        "behaviour": _behaviour(report),
        "spread": spread_view(report),
        "attacks": attack_view(report.attacks),
        "answers": _answers(report),
        "not_tested": report.not_tested,
        "provenance": _provenance(report),
    }


def headlines(report: AuditReport) -> list[Headline]:
    """Return the figures of the first screen, as far as they were measured."""
    forget, near, retain = report.forget, report.neighbours, report.retain
    said, first = "right answers about", "true answer ranked first"
    near_text, retain_text = f"{said} the known names most like them", f"{said} other known names"
    lost = "recall lost by"
    shown = (
        (
            "forget-recall",
            "Target recall",
            f"{said} the names to forget",
            "target recall",
            TARGET,
            forget,
            forget.recall,
        ),
        ("forget-ranking", "Target ranking", f"{first} among candidates", first, TARGET, forget, forget.ranking),
        ("neighbours-recall", "Neighbours’ recall", near_text, f"{lost} neighbours", KNOWN, near, near.recall),
        ("retain-recall", "Retained recall", retain_text, f"{lost} other known entities", KNOWN, retain, retain.recall),
    )
    return [
        Headline(
            key, title, text, check, colour, group, figure, report.ranking_chance if figure is forget.ranking else None
        )
        for key, title, text, check, colour, group, figure in shown
        if figure is not None
    ]


def _headline_panel(report: AuditReport, shown: Headline) -> dict[str, Any]:
    """Return one panel of the first screen."""
    threshold, limit = _limit(report, shown)
    svg = plots.before_after(
        shown.key, shown.title, shown.figure, colour=shown.colour, threshold=threshold, chance=shown.chance
    )
    n = shown.group.n
    return {
        "title": shown.title,
        "text": shown.text,
        "count": f"{n:,}{NBSP}name{'' if n == 1 else 's'}" if n is not None else "",
        "notes": "; ".join(
            filter(None, [limit, f"chance: {percent(shown.chance)}" if is_number(shown.chance) else ""])
        ),
        "svg": Markup(svg),
    }


def _limit(report: AuditReport, shown: Headline) -> tuple[Number, str]:
    """Return where a figure's limit lies on its own axis, and the limit in words.

    A check judges either the figure itself or what was lost of it; one that judges anything else has no place there.
    """
    rules = {"<=": "at most", ">=": "at least"}
    before, after = shown.figure.before.value, shown.figure.after.value
    for check in report.checks:
        value, threshold = check.value, check.threshold
        if check.name != shown.check or not is_number(value) or not is_number(threshold) or not is_number(after):
            continue
        if abs(value - after) < 1e-9:
            return threshold, f"limit: {rules[check.rule]} {percent(threshold)}"
        if is_number(before) and abs(value - (before - after)) < 1e-9 and check.rule == "<=":
            return before - threshold, f"limit: at most {100 * threshold:.1f} points lost".replace(".0 ", " ")
    return None, ""


def _utility(report: AuditReport) -> dict[str, str]:
    """Return the loss on general text before and after."""
    found = report.utility
    if found is None:
        return {"change": change_text(None), "text": "– → – nats per token", "tokens": ""}
    return {
        "change": change_text(found.rise),
        "text": f"{figure_text(found.loss_before)} → {figure_text(found.loss_after)} nats per token",
        "tokens": f"{found.n_tokens:,} tokens of {found.text}",
    }


def change_text(share: Number) -> str:
    r"""Return a relative change as a percentage with its sign; a dash where there is none.

    Example:
        >>> change_text(-0.0312), change_text(0.0), change_text(None)
        ('−3.1\xa0%', '+0.0\xa0%', '–')
    """
    return f"{100 * share:+.1f}{NBSP}%".replace("-", "−") if is_number(share) else "–"


def _gibberish(report: AuditReport) -> dict[str, Number]:
    """Return the share of gibberish among the answers about targets, before and after."""
    found = report.behaviour
    if found is None:
        return {"before": None, "after": None}
    return {"before": found.before.gibberish, "after": found.after.gibberish}


def _inside(report: AuditReport) -> dict[str, Any]:
    """Return the figures of the inside; none without text loss and behaviour, since a destroyed model looks well."""
    if not has_price(report):
        nothing = dict.fromkeys(("indistinguishability", "probe", "detection", "crosscoders"))
        return {"walks": [], **nothing, "is_unpriced": True}
    found = {"walks": _walks(report), "indistinguishability": _indistinguishability(report), "probe": _probe(report)}
    found |= {"detection": detection_view(report), "crosscoders": crosscoder_view(report)}
    return {**found, "is_unpriced": False}


def _walks(report: AuditReport) -> list[dict[str, Any]]:
    """Return one panel per hook point."""
    return [
        {"hook_point": name, "svg": Markup(plots.walk(f"walk-{i}", name, panel, others=walked(report, name)))}
        for i, (name, panel) in enumerate(report.walk.items())
    ]


def _indistinguishability(report: AuditReport) -> dict[str, Any] | None:
    """Return the figure and the table of the fresh classifier."""
    found = report.indistinguishability
    if not found:
        return None
    rows = list(found.values())
    none = [None] * len(rows)
    series = [
        Series([r.auroc_before for r in rows], none, none, MUTED, filled=False),
        Series([r.auroc.value for r in rows], [r.auroc.low for r in rows], [r.auroc.high for r in rows], TARGET),
    ]
    spoken = "; ".join(
        f"{name}: before {figure_text(r.auroc_before, 2)}, after {figure_text(r.auroc.value, 2)}, "
        f"control {figure_text(r.control_low, 2)} to {figure_text(r.control_high, 2)}"
        for name, r in found.items()
    )
    bands = [(r.control_low, r.control_high) for r in rows]
    svg = interval_rows("auroc", f"AUROC of a fresh classifier. {spoken}", list(found), series, bands=bands)
    measured = [(r.auroc.value, r.control_low, r.control_high) for r in rows]
    measured = [m for m in measured if all(map(is_number, m))]
    inside = sum(low <= value <= high for value, low, high in measured)
    limits = {c.name: c.threshold for c in report.checks if is_number(c.threshold)}
    drawn = [limits.get(f"AUROC at {name}") for name in found]
    return {
        "svg": Markup(svg),
        "rows": list(found.items()),
        "inside": f"{inside} of {len(measured)} hook points" if measured else "none was measured",
        "limits": _limits([v for v in drawn if v is not None]),
    }


def _limits(values: list[float]) -> str:
    """Say between which limits the verdict goes by."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"The verdict’s limit: {low:.2f}" + ("" if high - low < 0.005 else f" to {high:.2f}, place by place")


def _probe(report: AuditReport) -> dict[str, Any] | None:
    """Return what the original model's own probe says of the targets."""
    found = report.probe
    if found is None:
        return None
    after = found.unknown_after
    rows: list[tuple[str, Number, str, float]] = [
        ("targets before", found.unknown_before, TARGET, 0.32),
        ("targets after", after.value, TARGET, 1.0),
        ("really unknown names", found.unknown_control, UNKNOWN, 1.0),
    ]
    spread = ""
    if is_number(after.low) and is_number(after.high):
        spread = f"After: 95 % interval {percent(after.low)} to {percent(after.high)}."
    if not any(c.name == "called unknown" for c in report.checks):
        spread += (
            " It no longer knows really unknown names for unknown: it does not read the new model and decides nothing."
        )
    svg = plots.value_bars("probe", "Share that the old probe calls unknown", rows)
    return {"svg": Markup(svg), "hook_point": found.hook_point, "interval": spread}


def _behaviour(report: AuditReport) -> Markup | None:
    """Return the stacked bars of what the answers are."""
    found = report.behaviour
    rows = {} if found is None else {"before": found.before.by_kind(), "after": found.after.by_kind()}
    if not any(is_number(v) for shares in rows.values() for v in shares.values()):
        return None
    return Markup(plots.frac_bars("behaviour", "What the answers about the targets are", rows, BEHAVIOUR))


def _answers(report: AuditReport) -> list[dict[str, Any]]:
    """Return the answers by entity, in the order they were asked."""
    grouped: dict[str, list[AnsweredQuestion]] = {}
    for answer in report.answers:
        grouped.setdefault(answer.entity, []).append(answer)
    return [
        {
            "entity": name,
            "type": rows[0].type,
            "rows": rows,
            "right_before": sum(r.verdict_before == "right" for r in rows),
            "right_after": sum(r.verdict_after == "right" for r in rows),
        }
        for name, rows in grouped.items()
    ]


def _provenance(report: AuditReport) -> list[tuple[str, str]]:
    """Return what the figures were made from."""
    names = {"model": "original model", "unlearned": "unlearned model", "sae": "SAE"}
    request, policy = report.request, report.policy
    hashes = {"model_hash": request.model_hash, "unlearned_hash": request.unlearned_hash}
    facts = {"hook_point": request.hook_point, **hashes, **request.facts}
    found = [(names.get(k) or k.replace("_", " "), str(v)) for k, v in facts.items()]
    named = {f.name: getattr(policy, f.name) for f in fields(policy) if f.name not in ("limits", "sha256")}
    limits = {**named, **policy.limits, "sha256": policy.sha256}
    for title, values in (("limits", limits), ("settings", report.config)):
        if values:
            found.append((title, ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in values.items())))
    seconds = f"{report.seconds:,.1f} s" if is_number(report.seconds) else "–"
    return [*found, ("created", report.created), ("took", seconds), ("schema", f"{SCHEMA}, version {VERSION}")]
