"""The verdict: figures against limits fixed beforehand. A recall of 0 alone is never a pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.audit_figures import Figure, Place, ProbeVotes, ReadOff
from unlearn.auditing.audit_report import Check, Findings
from unlearn.auditing.joint_figures import MatchedNull
from unlearn.auditing.policy import AuditPolicy


class Verdict(NamedTuple):
    """`pass`, `fail` or `inconclusive`, and every check it rests on."""

    verdict: str
    checks: list[Check]


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
    # What could not be measured decides nothing, in neither direction.
    if not math.isfinite(value) or not math.isfinite(threshold):
        status = "inconclusive"
    elif not (value <= threshold if rule == "<=" else value >= threshold):
        status = "fail"
    else:
        reach = high - threshold if rule == "<=" else threshold - low
        # A figure that passes on too few questions to be sure of it is no pass.
        status = "inconclusive" if reach > slack else "pass"
    return Check(name, value, low, high, threshold, rule, status, text)


def decide(found: Findings, policy: AuditPolicy) -> Verdict:
    """Return the verdict and every check: `fail` if one fails, else `inconclusive` if one is, else `pass`.

    What the policy requires and nobody ran is inconclusive, so that leaving out a test never makes a pass.

    Args:
        found: A report, or what one is to be made of.
        policy: Limits.
    """
    groups = (_says, _keeps, _holds, _comes_back)
    checks = [*(c for group in groups for c in group(found, policy)), *_not_run(found, policy)]
    statuses = {c.status for c in checks}
    # One failure decides: good figures elsewhere do not make up for it.
    verdict = "fail" if "fail" in statuses else "inconclusive" if "inconclusive" in statuses else "pass"
    return Verdict(verdict, checks)


def _not_run(found: Findings, policy: AuditPolicy) -> list[Check]:
    """Return an undecided check for everything that is required and was not run."""
    nan = float("nan")
    return [
        Check(
            f"{name} (not run)",
            nan,
            nan,
            nan,
            nan,
            "<=",
            "inconclusive",
            f"The policy asks for {name}; it was not run.",
        )
        for name in policy.required
        if name not in found.evaluated
    ]


def _says(found: Findings, policy: AuditPolicy) -> list[Check]:
    """What the model still answers."""
    checks = []
    recall, ranking = found.forget.recall, found.forget.ranking
    if recall is not None:
        after = recall.after
        text = f"{after.value:.1%} of the questions about the targets are still answered rightly."
        interval = (after.low, after.high)
        checks.append(check("target recall", after.value, policy.max_recall, "<=", text, interval=interval, slack=0.15))
    if found.forget.sampled_recall is not None and found.control.sampled_recall is not None:
        checks.append(_sampled(found.forget.sampled_recall, found.control.sampled_recall, policy))
    # Recall falls to 0 by muting alone; the rank of the true answer does not.
    if ranking is not None:
        after, name = ranking.after, "true answer ranked first"
        chance = math.nan if found.ranking_chance is None else found.ranking_chance
        text = (
            f"The true answer is the likeliest candidate in {after.value:.1%} of the questions (chance {chance:.1%})."
        )
        interval = (after.low, after.high)
        checks.append(check(name, after.value, policy.max_rank_first, "<=", text, interval=interval, slack=0.15))
    # A destroyed model answers no question either; gibberish tells it from one that forgot.
    if found.behaviour is not None:
        gibberish = found.behaviour.after.gibberish
        text = f"{gibberish:.1%} of the answers about targets say nothing."
        checks.append(check("gibberish", gibberish, policy.max_gibberish, "<=", text))
    return checks


def _sampled(target: Figure, control: Figure, policy: AuditPolicy) -> Check:
    """Judge drawn answers beside those about never-known entities."""
    after, limit = target.after, control.after.high + policy.attack_margin
    text = (
        f"{after.value:.1%} of the answers drawn at temperature one are right "
        f"(never-known entities {control.after.value:.1%})."
    )
    return check("recall in drawn answers", after.value, limit, "<=", text, interval=(after.low, after.high))


def _keeps(found: Findings, policy: AuditPolicy) -> list[Check]:
    """What must not have been lost."""
    checks = []
    groups = {
        "neighbours": found.neighbours,
        "other known entities": found.retain,
        # Retained entities were trained to stay; only those that training never saw show the real cost.
        "known entities never retained": found.untouched,
    }
    for words, group in groups.items():
        if not group.n or group.recall is None:
            continue
        before, after = group.recall.before.value, group.recall.after.value
        text = f"Recall of {words}: {before:.1%} before, {after:.1%} after."
        checks.append(check(f"recall lost by {words}", group.recall.lost, policy.max_drop, "<=", text))
    if found.unknown.recall is not None:
        before, after = found.unknown.recall.before.value, found.unknown.recall.after.value
        text = f"Unknown entities: {after:.1%} of the answers happen to be right."
        checks.append(check("recall gained by unknown entities", after - before, policy.max_unknown_gain, "<=", text))
    if found.writing is not None:
        old, new = found.writing.entropy_before, found.writing.entropy_after
        text = f"n-gram entropy of free writing: {old:.2f} before, {new:.2f} after."
        checks.append(check("entropy lost in free writing", 1 - new / old, policy.max_entropy_loss, "<=", text))
    if found.utility is not None:
        utility = found.utility
        text = f"Loss on general text: {utility.loss_before:.4f} before, {utility.loss_after:.4f} after."
        checks.append(check("rise of general-text loss", utility.rise, policy.max_loss_increase, "<=", text))
    return checks


def _holds(found: Findings, policy: AuditPolicy) -> list[Check]:
    """What is still inside."""
    checks = _told_from_unknown(found, policy)
    # A probe that does not recognise really unknown names says nothing about targets.
    if found.probe is not None and found.probe.unknown_control >= policy.min_probe_reads:
        checks.append(_called_unknown(found.probe, "called unknown", "The original model's probe", policy))
    if found.fresh_probe is not None:
        name = "called unknown by a fresh probe"
        checks.append(_called_unknown(found.fresh_probe, name, "A probe of the model after", policy))
    for words, places in (("logit lens", found.logit_lens), ("value probe", found.value_probe)):
        checks += [_read_off(f"{words} at {name}", place, policy) for name, place in places.items()]
    return checks


def _told_from_unknown(found: Findings, policy: AuditPolicy) -> list[Check]:
    """Whether targets can be told from never-known entities: by the matched null, up to version 3 by fixed limits."""
    if policy.version >= 4:
        return [] if found.matched is None else [_matched(found.matched, policy), _powered(found.matched, policy)]
    judged = judged_places(found.indistinguishability, policy.reported_places)
    checks = [_told_apart(name, place, policy) for name, place in judged.items()]
    return checks if found.two_sample_p is None else [*checks, _two_sample(found.two_sample_p, policy)]


def _matched(found: MatchedNull, policy: AuditPolicy) -> Check:
    """Outside the null groups nothing passes; it fails where the targets lie significantly towards known names.

    A difference alone is no failure: it shows that somebody was here, not what the model knows.
    """
    text = (
        f"Of {found.n_groups} groups of never-known entities that could have been the targets ({found.history}), "
        f"{found.p:.1%} deviate as far, at any place, in either direction. The targets deviate most in the "
        f"{found.statistic} at {found.place} ({found.z:+.1f} standard deviations)."
    )
    judged = check("matched null", found.p, policy.min_matched_p, ">=", text)
    towards = found.towards_known(policy.min_matched_p)
    if judged.status != "fail" or not towards:
        return replace(judged, status="inconclusive") if judged.status == "fail" else judged
    place, where = max(towards.items(), key=lambda item: item[1].remaining.value)
    share = f"{where.remaining.value:.0%} of the way to known names at {place}"
    return replace(judged, text=f"{text} They still lie towards known names: {share}.")


def _powered(found: MatchedNull, policy: AuditPolicy) -> Check:
    """What few targets could hide is not excluded."""
    text = (
        f"With {found.n_targets} targets, {found.detectable:.0%} of the way from unknown to known names would have "
        "been found at the median place with 80 %."
        if math.isfinite(found.detectable)
        else "Known and unknown names are told apart at no place, so that nothing on the way between them is found."
    )
    judged = check("detectable with 80 %", found.detectable, policy.max_detectable, "<=", text)
    if judged.status == "pass":
        return judged
    more = "So few targets could hide more; what is said, ranked, read off and brought back by attacks still counts."
    return replace(judged, status="inconclusive", text=f"{text} {more}")


def judged_places(places: Mapping[str, Place], reported: Sequence[str]) -> dict[str, Place]:
    """Return the places whose classifiers decide: not those of a kind that is only reported."""
    return {n: p for n, p in places.items() if not n.split(", ")[-1].startswith(tuple(reported))}


def _two_sample(p: float, policy: AuditPolicy) -> Check:
    """A small p cannot pass; alone it does not fail, since with many entities any difference would be found."""
    text = (
        f"Two-sample test of targets against unknown entities at the last name token, all blocks together: p {p:.3f}."
    )
    found = check("two-sample p", p, policy.min_p, ">=", text)
    return replace(found, status="inconclusive") if found.status == "fail" else found


def _called_unknown(probe: ProbeVotes, name: str, words: str, policy: AuditPolicy) -> Check:
    """Judge a probe's votes about targets by its votes about really unknown entities."""
    after = probe.unknown_after
    # No more is asked of targets than really unknown names reach.
    limit = min(policy.min_called_unknown, probe.unknown_control - policy.probe_margin)
    text = (
        f"{words} calls {after.value:.1%} of the target contexts unknown "
        f"(really unknown names {probe.unknown_control:.1%})."
    )
    return check(name, after.value, limit, ">=", text, interval=(after.low, after.high), slack=0.15)


def _read_off(name: str, place: ReadOff, policy: AuditPolicy) -> Check:
    """Judge what can be read off the inside by what is read off never-known entities."""
    after = place.after
    text = (
        f"The true answer comes first by the {name} in {after.value:.1%} of the questions "
        f"(before {place.before:.1%}; never-known entities {place.control.value:.1%})."
    )
    # Not zero: some true answers come first by chance, for never-known entities, too.
    limit = place.control.high + policy.attack_margin
    return check(name, after.value, limit, "<=", text, interval=(after.low, after.high))


def _comes_back(found: Findings, policy: AuditPolicy) -> list[Check]:
    """What attacks bring back, beside never-known entities under the same attack."""
    return [_attacked(name, attack, policy) for name, attack in found.attacks.items()]


def _attacked(name: str, attack: AttackResult, policy: AuditPolicy) -> Check:
    """Judge one attack by its worst setting."""
    after = attack.recall_after
    text = (
        f"Under {name} ({attack.worst.name}) {after.value:.1%} of the questions about the targets are "
        f"answered rightly (never-known entities {attack.compared.value:.1%})."
    )
    # Beside never-known entities, which learn from the same lessons: 0.05 to 0.10 of untaught facts after 10 to 60
    # steps.
    limit = attack.compared.high + policy.attack_margin
    return check(f"attack: {name}", after.value, limit, "<=", text, interval=(after.low, after.high))


def _told_apart(name: str, place: Place, policy: AuditPolicy) -> Check:
    """Judge a fresh classifier: above the limit, what never-known groups reach, and spelling alone, it fails."""
    auroc, control = place.auroc, place.control_high
    # No fixed limit: random groups of never-seen names reach an AUROC of 0.28 to 0.66 against the others, so the range
    # is drawn anew in each audit.
    reach = max(control, place.spelling) if math.isfinite(control) else control
    limit = max(policy.max_auroc, reach) if math.isfinite(reach) else policy.max_auroc
    text = (
        f"A fresh classifier tells targets from unknown entities at {name} with AUROC {auroc.value:.2f} "
        f"(before {place.auroc_before:.2f}; never-known groups {place.control_low:.2f} to {control:.2f}; "
        f"by spelling alone {place.spelling:.2f})."
    )
    found = check(f"AUROC at {name}", auroc.value, limit, "<=", text, interval=(auroc.low, auroc.high))
    if place.control_mean > policy.max_auroc:
        words = "With so few targets any group of names can be told apart by its spelling: this test says nothing."
        return replace(found, status="inconclusive", text=f"{text} {words}")
    if found.status == "pass" and not math.isfinite(control):
        return replace(found, status="inconclusive", text=f"{text} Too few unknown entities to compare with.")
    return found
