"""The attacks on the audit page: every path is drawn, and its highest readings are said with the place they were at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sae_train.intervals import Interval
from unlearn.auditing.attack_results import (
    AttackResult,
    AttackSetting,
    CurvePoint,
    Highest,
    Reading,
    Relearning,
)
from unlearn.pages.attack_view import attack_view
from unlearn.pages.audit_page import write_audit_page


def by_lessons(split: str, most: float) -> AttackResult:
    points = (CurvePoint(0.0, 0, 0.0, 0.0), CurvePoint(1e-3, 30, most, 0.05, {"qa": Reading(most, 0.05)}))
    highest = Highest(Interval(most, 0.2, 0.6), 1e-3, 30, Interval(0.05, 0.0, 0.1), 0.0, 0, 0.99)
    setting = AttackSetting("30 steps at 0.001, questions", highest.target, highest.control, 0.99)
    return AttackResult((setting), (setting,), relearning=Relearning(split, 4, 4, points, {"qa": highest}))


@pytest.fixture(scope="module")
def attacks():
    return {"relearn": by_lessons("facts", 0.31), "same-form": by_lessons("entities", 0.42)}


def test_every_path_stands_on_the_page(attacks, one_name, tmp_path):
    source = write_audit_page(replace(one_name(), attacks=attacks), tmp_path / "audit.html").read_text(encoding="utf-8")
    assert source.count("The highest on the way:") == 2
    for title, said in (
        ("Lessons about some facts, questions about others", "questions 31"),
        ("Lessons about other names in the targets’ sentence forms", "questions 42"),
    ):
        figure = source[source.index(f"<h3>{title}") :]
        figure = figure[: figure.index("</figure>")].replace("\u00a0", " ")
        assert f"{said} % (30 steps at 0.001; never known 5 %; original model 99 %)" in figure
        assert "<svg" in figure


def test_an_attack_without_a_path_has_a_row_alone(attacks):
    plain = replace(attacks["relearn"], relearning=None)
    found = attack_view({"quantize": plain, **attacks})
    assert [name for name, _ in found["rows"]] == ["quantize", "relearn", "same-form"]
    assert len(found["paths"]) == 2
    untaught = replace(plain, relearning=Relearning("facts", 1, 1, (CurvePoint(0.0, 0, 0.0, 0.0),)))
    assert attack_view({"relearn": untaught})["paths"] == []
    assert attack_view({}) is None


def test_an_audit_of_an_earlier_program_shows_its_curve(attacks):
    """It has no readings."""
    earlier = replace(attacks["relearn"].relearning, highest={})
    (path,) = attack_view({"relearn": replace(attacks["relearn"], relearning=earlier)})["paths"]
    assert path["highest"] == "" and "<svg" in path["svg"]
