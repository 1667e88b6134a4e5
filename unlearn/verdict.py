"""The verdict: figures against thresholds that were fixed beforehand. Recall 0 alone is never a pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from unlearn.config import AuditPolicy


@dataclass(frozen=True)
class Check:
    """One figure against its threshold.

    Attributes:
        status: `pass` or `fail` where the figure and its interval agree; `inconclusive` where the figure passes but its
            interval reaches far beyond the threshold, or where it could not be measured.
    """

    name: str
    value: float
    low: float
    high: float
    threshold: float
    rule: str
    status: str
    text: str


def check(
    name: str,
    value: float,
    threshold: float,
    rule: str,
    text: str,
    *,
    interval: tuple[float, float] | None = None,
    slack: float = math.inf,
) -> Check:
    """Compare a figure with its threshold.

    Args:
        name: What was measured.
        value: The figure.
        threshold: The limit.
        rule: `<=` or `>=`.
        text: One plain sentence for the reader.
        interval: 95 % interval of the figure.
        slack: How far beyond the threshold the interval may reach before a passing figure is inconclusive.
    """
    low, high = interval if interval is not None else (value, value)
    if not math.isfinite(value):
        status = "inconclusive"
    elif not (value <= threshold if rule == "<=" else value >= threshold):
        status = "fail"
    else:
        reach = high - threshold if rule == "<=" else threshold - low
        status = "inconclusive" if reach > slack else "pass"
    return Check(name, value, low, high, threshold, rule, status, text)


def decide(audit: dict[str, Any], policy: AuditPolicy) -> tuple[str, list[Check]]:
    """Return the verdict and every check: `fail` if one fails, else `inconclusive` if one is, else `pass`."""
    checks = [*_says(audit, policy), *_keeps(audit, policy), *_holds(audit, policy)]
    statuses = {c.status for c in checks}
    verdict = "fail" if "fail" in statuses else "inconclusive" if "inconclusive" in statuses else "pass"
    return verdict, checks


def _says(audit: dict[str, Any], policy: AuditPolicy) -> list[Check]:
    """What the model still answers."""
    forget = audit["forget"]
    interval = (forget["recall_after_low"], forget["recall_after_high"])
    rank = (forget["ranking_after_low"], forget["ranking_after_high"])
    gibberish = audit["behaviour"]["after"]["gibberish"]
    return [
        check(
            "target recall",
            forget["recall_after"],
            policy.max_recall,
            "<=",
            f"{forget['recall_after']:.1%} of the questions about the targets are still answered rightly.",
            interval=interval,
            slack=0.15,
        ),
        check(
            "true answer ranked first",
            forget["ranking_after"],
            policy.max_rank_first,
            "<=",
            f"The true answer is the likeliest candidate in {forget['ranking_after']:.1%} of the questions "
            f"(chance {audit['ranking_chance']:.1%}).",
            interval=rank,
            slack=0.15,
        ),
        check(
            "gibberish",
            gibberish,
            policy.max_gibberish,
            "<=",
            f"{gibberish:.1%} of the answers about targets say nothing.",
        ),
    ]


def _keeps(audit: dict[str, Any], policy: AuditPolicy) -> list[Check]:
    """What must not have been lost."""
    found = []
    groups = {
        "neighbours": "neighbours",
        "retain": "other known entities",
        "untouched": "known entities never retained",
    }
    for group, words in groups.items():
        if not audit[group]["n"]:
            continue
        drop = audit[group]["recall_before"] - audit[group]["recall_after"]
        text = (
            f"Recall of {words}: {audit[group]['recall_before']:.1%} before, {audit[group]['recall_after']:.1%} after."
        )
        found.append(check(f"recall lost by {words}", drop, policy.max_drop, "<=", text))
    utility = audit["utility"]
    rise = utility["loss_after"] / utility["loss_before"] - 1
    text = f"Loss on general text: {utility['loss_before']:.4f} before, {utility['loss_after']:.4f} after."
    return [*found, check("rise of general-text loss", rise, policy.max_loss_increase, "<=", text)]


def _holds(audit: dict[str, Any], policy: AuditPolicy) -> list[Check]:
    """What is still inside."""
    found = [_told_apart(name, block, policy) for name, block in audit["indistinguishability"].items()]
    probe = audit["probe"]
    text = f"The original model's probe calls {probe['unknown_after']:.1%} of the target contexts unknown."
    interval = (probe["unknown_after_low"], probe["unknown_after_high"])
    return [
        *found,
        check(
            "called unknown",
            probe["unknown_after"],
            policy.min_called_unknown,
            ">=",
            text,
            interval=interval,
            slack=0.15,
        ),
    ]


def _told_apart(name: str, block: dict[str, float], policy: AuditPolicy) -> Check:
    """Judge a fresh classifier by what it reaches between groups of names that were never known.

    Above both the limit and that range it fails; if even the lower end of its interval lies above that range the
    targets can be told apart a little, and the check is inconclusive.
    """
    value, low, high, control = block["auroc"], block["auroc_low"], block["auroc_high"], block["control_high"]
    limit = max(policy.max_auroc, control) if math.isfinite(control) else policy.max_auroc
    text = (
        f"A fresh classifier tells targets from unknown entities at {name} with AUROC {value:.2f} "
        f"(before {block['auroc_before']:.2f}; never-known groups {block['control_low']:.2f} to {control:.2f})."
    )
    found = check(f"AUROC at {name}", value, limit, "<=", text, interval=(low, high))
    if block["control_mean"] > policy.max_auroc:
        words = "With so few targets any group of names can be told apart by its spelling: this test says nothing."
        return replace(found, status="inconclusive", text=f"{text} {words}")
    if found.status == "pass" and not low <= control:
        return replace(found, status="inconclusive", text=f"{text} Its whole interval lies above that range.")
    return found
