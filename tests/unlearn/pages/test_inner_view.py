"""The matched null and the depth on the audit page."""

from __future__ import annotations

from dataclasses import replace

from features.stats.probe import Interval
from unlearn.auditing.joint_figures import Depth, DepthPart, GroupStatistic, MatchedNull, MatchedPlace
from unlearn.pages.audit_page import write_audit_page


def test_both_are_shown_where_they_are_and_not_where_they_are_not(one_name, tmp_path):
    statistics = {
        "classifier": GroupStatistic(0.5, 0.3, 0.7, 0.1, 0.9),
        "known direction": GroupStatistic(0.0, 0.0, 0.0, -3.0, 1.0),
    }
    place = MatchedPlace(Interval(0.12, 0.02, 0.2), 0.25, statistics)
    matched = MatchedNull(
        0.04, 20, 99, 999, "never", "layers.1", "classifier", -3.1, 0.25, ("type of entity",), {"never": 0.04},
        {"layers.1, whole name": place},
    )  # fmt: skip
    part = DepthPart(Interval(0.2, 0.1, 0.3), 0.25, 0.9, 0.7, 0.1)
    report = replace(one_name(), matched=matched, depth=Depth(Interval(0.61, 0.5, 0.7), {"relearn": part}))
    text = write_audit_page(report, tmp_path / "audit.html").read_text(encoding="utf-8")
    for said in ("could have been the targets", "type of entity", "never 4%", "-3.1", "0.61", "Least: relearn, 0.20"):
        assert said in text.replace("\u202f", "").replace("\u00a0", "").replace("4 %", "4%"), said
    plain = write_audit_page(one_name(), tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "could have been the targets" not in plain and "Depth of the removal" not in plain
