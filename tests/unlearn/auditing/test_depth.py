"""Depth: made-up figures of which the order is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.stats.probe import Interval
from unlearn.auditing.attack_results import CLOZE, QA, AttackResult, AttackSetting, CurvePoint, Highest, Relearning
from unlearn.auditing.audit_figures import Figure, GroupResult, ReadOff
from unlearn.auditing.audit_json import report_from_json, report_to_json
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.depth import PARTS, depth_of
from unlearn.auditing.joint_figures import MatchedNull, MatchedPlace

FLOOR = 0.05  # what never-known entities reach


def around(value: float) -> Interval:
    return Interval(value, value - 0.02, value + 0.02)


def with_left(share: float, *, without: tuple[str, ...] = ()) -> Findings:
    """Return the figures of a model in which a share of the knowledge is left, in every part."""
    level = FLOOR + share * (1.0 - FLOOR)
    setting = AttackSetting("worst", around(level), around(FLOOR), 1.0)
    most = Highest(around(level), 1e-3, 10, around(FLOOR), 1e-3, 10, 1.0)
    lessons = replace(
        AttackResult(setting, (setting,)),
        relearning=Relearning("facts", 2, 2, (CurvePoint(0.0, 0, level, FLOOR),), {QA: most, CLOZE: most}),
    )
    attacks = {n: AttackResult(setting, (setting,)) for n in ("steer-back", "prompts", "sampling", "quantize")}
    place = MatchedPlace(around(share), 0.2)
    read = {"layers.1": ReadOff(around(level), around(FLOOR), 1.0)}
    control = GroupResult(ranking=Figure(around(FLOOR), around(FLOOR)))
    found = Findings(
        attacks={"relearn": lessons, **attacks},
        forget=GroupResult(ranking=Figure(around(1.0), around(level))),
        control=control,
        ranking_chance=FLOOR,
        matched=MatchedNull(0.5, 20, 100, 99, "never", "layers.1", "", 0.0, 0.2, places={"layers.1": place}),
        logit_lens=read,
        value_probe=read,
    )
    kept = {n: a for n, a in found.attacks.items() if n not in without}
    return replace(found, attacks=kept, matched=None if "known direction" in without else found.matched)


def test_the_weights_add_up_to_one():
    assert sum(weight for weight, _ in PARTS.values()) == pytest.approx(1.0)


def test_as_before_is_zero_and_as_never_known_is_one():
    before, never = depth_of(with_left(1.0)), depth_of(with_left(0.0))
    assert before is not None and never is not None
    assert before.score.value == pytest.approx(0.0) and never.score.value == pytest.approx(1.0)
    assert set(never.parts) == set(PARTS) and never.not_measured == ()
    assert never.score.low < 0.99 < never.score.high == pytest.approx(1.0)


def test_it_falls_with_what_is_left():
    depths = [depth_of(with_left(share / 10)) for share in range(11)]
    values = [d.score.value for d in depths if d is not None]
    assert values == sorted(values, reverse=True) and len(set(values)) == 11
    assert values[5] == pytest.approx(0.5)
    assert all(d.score.low <= d.score.value <= d.score.high for d in depths if d is not None)


def test_each_part_alone_counts_by_its_weight():
    clean, full = with_left(0.0), with_left(1.0)
    swapped = replace(clean, attacks={**clean.attacks, "steer-back": full.attacks["steer-back"]})
    found = depth_of(swapped)
    assert found is not None and found.score.value == pytest.approx(1.0 - PARTS["steer-back"][0])
    assert found.parts["steer-back"].depth.value == 0.0


def test_what_was_not_measured_is_left_out_and_said():
    found = depth_of(with_left(0.3, without=("sampling", "known direction")))
    assert found is not None and found.score.value == pytest.approx(0.7)
    assert found.not_measured == ("sampling", "known direction")
    assert depth_of(with_left(0.3, without=("relearn", "steer-back", "prompts"))) is None, "too little is left to weigh"
    assert depth_of(Findings()) is None


def test_what_brings_nothing_out_of_the_original_tells_nothing():
    found = with_left(0.0)
    idle = AttackSetting("idle", around(FLOOR), around(FLOOR), FLOOR + 0.02)
    depth = depth_of(replace(found, attacks={**found.attacks, "prompts": AttackResult(idle, (idle,))}))
    assert depth is not None and "prompts" in depth.not_measured


def test_it_is_written_and_read(one_name):
    """Depth and matched null among the keys of audit.json; an audit without them is read as before."""
    found = with_left(0.3)
    report = replace(one_name(), depth=depth_of(found), matched=found.matched)
    raw = report_to_json(report)
    assert raw["depth"]["score"] == pytest.approx(0.7) and raw["matched"]["places"]["layers.1"]["remaining"] == 0.3
    assert repr(report_from_json(raw)) == repr(report)
    assert "depth" not in report_to_json(one_name()) and report_from_json(report_to_json(one_name())).depth is None
    assert repr(depth_of(report_from_json(report_to_json(replace(one_name(), **found.parts()))))) == repr(report.depth)
