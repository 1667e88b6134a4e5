"""The bench of known truth on made-up cells: truth, errors, ROC, what catches what, and the page."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.audit.audit_detector import jobs
from benchmarks.audit.detector_cells import APART, FORGOTTEN, NOT, Cell, Evidence, cell_path, keep, read_cell
from benchmarks.audit.detector_cheats import CHEATS, moment_distance
from benchmarks.audit.detector_models import models, strengths
from benchmarks.audit.detector_page import page
from benchmarks.audit.detector_scores import (
    best_limit,
    catches,
    family_of,
    left_out_errors,
    margin_of,
    roc,
    scores_of,
    verdict_errors,
    without_damage,
)
from features.stats.probe import Interval
from unlearn.auditing.audit_report import Check

CONTROL = Interval(0.05, 0.0, 0.15)


@pytest.fixture
def cell(one_name):
    """Return a function that makes a cell whose one check has some value."""

    def made(seed: int, family: str, value: float, verdict: str = "fail", back: float = 0.0, name: str = "") -> Cell:
        status = "pass" if value <= 0.2 else "fail"
        checks = (
            Check("attack: relearn", value, value, value, 0.2, "<=", status, ""),
            Check("value probe at layers.1", 0.1, 0.1, 0.1, 0.2, "<=", "pass", ""),
            Check("value probe at layers.2", 0.3 * (family == "cheat"), 0.0, 0.0, 0.2, "<=", "pass", ""),
        )
        report = replace(one_name(), verdict=verdict, checks=checks, attacks={})
        return Cell(seed, family, name or family, 0, report, Evidence(back, CONTROL), 1.0)

    return made


@pytest.fixture
def bench(cell) -> list[Cell]:
    """Four worlds: forgotten ones low, untouched ones high, one cheat that passes and one that longer lessons spare."""
    found = []
    for seed in range(4):
        found += [cell(seed, "never", 0.05 + 0.01 * seed, "pass"), cell(seed, "untouched", 0.9 - 0.01 * seed)]
    found += [cell(0, "cheat", 0.1, "pass", back=0.6), cell(1, "cheat", 0.8, back=0.1, name="spared")]
    return found


def test_truth_is_by_construction_or_by_longer_lessons(cell):
    assert cell(0, "never", 0.9, back=0.9).truth == FORGOTTEN
    assert [cell(0, f, 0.0).truth for f in ("untouched", "half", "damaged")] == [NOT] * 3
    assert cell(0, "cheat", 0.0, back=0.26).truth == NOT, "above the control's upper end and the margin"
    assert cell(0, "cheat", 0.0, back=0.24).truth == APART
    assert replace(cell(0, "method", 0.0, back=0.9), evidence=None).truth == APART, "nobody looked"


def test_a_cell_is_kept_and_read(cell, tmp_path):
    made = cell(2, "cheat", 0.1, back=0.6, name="cheat: statistics")
    path = keep(tmp_path, made)
    assert path == cell_path(tmp_path, 2, "cheat: statistics", 0) and path.is_file()
    again = read_cell(path)
    assert (again.seed, again.family, again.name, again.evidence) == (2, "cheat", made.name, made.evidence)
    assert again.truth == NOT
    assert again.report.request == made.report.request and again.report.walk == {}
    assert again.report.verdict == "inconclusive", "judged anew: the made-up report lacks most of what is required"


def test_errors_of_the_verdict(bench):
    found = verdict_errors(bench)
    assert found.false_passes.value == pytest.approx(1 / 5) and found.false_fails.value == 0.0
    assert found.cheats.value == 1.0, "the spared cheat stands apart"
    assert found.false_passes.low < 0.2 < found.false_passes.high
    blind = [replace(c, report=replace(c.report, verdict="inconclusive")) for c in bench]
    assert verdict_errors(blind).false_passes.value == 0.0 == verdict_errors(blind).false_fails.value


def test_the_margin_is_that_of_the_worst_place(bench):
    clean, cheat = bench[0], next(c for c in bench if c.family == "cheat")
    assert margin_of(clean, "attack: relearn") == pytest.approx(0.15)
    assert margin_of(clean, "value probe") == pytest.approx(0.1)
    assert margin_of(cheat, "value probe") == pytest.approx(-0.1)
    assert math.isnan(margin_of(clean, "logit lens"))
    assert {family_of(c) for c in clean.report.checks} | {"depth"} == set(scores_of(bench))


def test_roc_is_right_and_chance_is_chance(bench):
    relearn = roc(bench, "relearn", scores_of(bench)["attack: relearn"])
    assert relearn.auc.value == pytest.approx(1.0)
    assert (relearn.n_forgotten, relearn.n_not) == (4, 5)
    constant = roc(bench, "same", lambda c: 1.0)
    assert constant.auc.value == pytest.approx(0.5)
    assert math.isnan(roc(bench, "missing", lambda c: math.nan).auc.value)
    inverted = roc(bench, "inverted", lambda c: -scores_of(bench)["attack: relearn"](c))
    assert inverted.auc.value == pytest.approx(1 - relearn.auc.value)


def test_leave_one_seed_out_takes_its_limit_from_the_others(bench):
    score = scores_of(bench)["attack: relearn"]
    found = left_out_errors([c for c in bench if c.family != "cheat"], score)
    assert (found.false_passes.value, found.false_fails.value) == (0.0, 0.0)
    shifted = [c for c in bench if c.family != "cheat" and c.seed != 3]
    limit = best_limit(shifted, score)
    assert -0.7 < limit < 0.1
    odd = next(c for c in bench if c.seed == 3 and c.family == "never")
    worse = replace(odd, report=replace(odd.report, checks=(replace(odd.report.checks[0], value=0.95),)))
    assert left_out_errors([*shifted, worse], score).false_fails.value == pytest.approx(1 / 4)


def test_damage_alone_tells_nothing_of_what_is_left(cell):
    spoiled = cell(0, "cheat", 0.1)
    harm = replace(spoiled.report.checks[0], name="recall lost by neighbours", status="fail")
    spoiled = replace(spoiled, report=replace(spoiled.report, checks=(*spoiled.report.checks, harm), verdict="fail"))
    assert without_damage(spoiled).report.verdict == "pass"
    left = replace(harm, name="attack: relearn")
    assert without_damage(replace(spoiled, report=replace(spoiled.report, checks=(left,)))).report.verdict == "fail"


def test_what_catches_which(bench):
    assert catches(bench) == {"cheat": {}, "spared": {"attack: relearn": 1}}


def test_the_page_says_all_of_it(bench):
    blind = [replace(c, report=replace(c.report, verdict="inconclusive")) for c in bench]
    text = page({"blind": blind, "seeing": bench}, "What it is.")
    rates = {
        line.split("|")[1].strip(): line.split("|")[2].split()[0] for line in text.splitlines() if "verdict, " in line
    }
    assert rates == {"verdict, policy blind": "0.000", "verdict, policy seeing": "0.200"}
    assert "10 models, 4 worlds" in text and "| cheat: spared | apart (1) |" in text
    assert "| spared | attack: relearn (1) |" in text and "What it is." in text
    assert "0.200 (" in text.split("## Each check alone")[0]
    assert "\nBy hand.\n" in page({"seeing": bench}, "What it is.", text.replace("(to be written)", "By hand."))


def test_every_method_has_three_strengths_and_every_kind_is_there(tmp_path):
    found = models()
    families = {m.family for m in found.values()}
    assert families == {"never", "untouched", "half", "damaged", "cheat", "near miss", "method"}
    assert all(len(strengths(method)) == 3 for method in ("redirect", "npo", "redirect-closed-form", "pisces"))
    assert {n.removeprefix("cheat: ") for n, m in found.items() if m.family == "cheat"} == set(CHEATS)
    assert len(found) * 5 >= 150


def test_jobs_are_those_that_are_missing(cell, tmp_path):
    every = list(jobs(tmp_path, [0, 1], tmp_path, []))
    assert not any(job.model.needs_demo for job in every), "no demo is there"
    assert [(j.name, j.seed) for j in every[:3]] == [("never", 0), ("never", 1), ("never", 0)]
    keep(tmp_path, cell(0, "never", 0.1))
    assert len(list(jobs(tmp_path, [0, 1], tmp_path, []))) == len(every) - 1
    assert {j.model.family for j in jobs(tmp_path, [0], tmp_path, ["cheat"])} == {"cheat"}
    (tmp_path / "demo-1").mkdir()
    assert any(job.model.needs_demo and job.seed == 1 for job in jobs(tmp_path, [0, 1], tmp_path, []))


def test_moments_are_matched_by_groups_not_by_names():
    y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    assert moment_distance(y[torch.randperm(12)], y).item() == pytest.approx(0.0, abs=1e-6)
    assert moment_distance(2 * y, y).item() > 0.1, "the spread counts"
