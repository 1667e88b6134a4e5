"""`audit.json`: version 2 reads, is written as it was read, and no other version is taken for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from features.stats.probe import Interval
from sae_train.errors import FileFormatError, MissingFileError, SchemaError
from unlearn.auditing.attack_results import Relearning
from unlearn.auditing.audit_figures import TaskMetric, TaskResult, Walk
from unlearn.auditing.audit_json import (
    VERSION,
    findings_from_json,
    findings_to_json,
    load_report,
    report_from_json,
    report_to_json,
    save_report,
)
from unlearn.auditing.audit_report import AuditReport, Findings

SAMPLE = Path(__file__).with_name("audit_v2.json")
"""Written by the program before audits were dataclasses, on the embedded world, with most rows of its lists cut out."""


@pytest.fixture(scope="module")
def raw():
    return json.loads(SAMPLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(raw) -> AuditReport:
    return load_report(SAMPLE)


def test_an_earlier_file_reads(report, raw):
    assert report.verdict == raw["verdict"] == "fail"
    assert report.request.forget == tuple(raw["request"]["forget"])
    assert (report.request.unlearned, report.request.method) == ("runs/ours", "noise")
    assert [c.name for c in report.checks] == [c["name"] for c in raw["checks"]]
    forget = raw["forget"]
    recall = Interval(forget["recall_after"], forget["recall_after_low"], forget["recall_after_high"])
    assert report.forget.recall.after == recall and report.forget.n == 6
    assert report.forget.rouge_l_after == forget["rouge_l_after"]
    assert report.retain.sampled_recall is None and report.untouched.ranking is None
    assert report.utility.rise == raw["utility"]["loss_after"] / raw["utility"]["loss_before"] - 1
    assert report.behaviour.after.off_topic == raw["behaviour"]["after"]["off-topic"]
    place = report.indistinguishability["layers.2, SAE error"]
    assert place.auroc.high == raw["indistinguishability"]["layers.2, SAE error"]["auroc_high"]
    assert report.probe.unknown_after.high == raw["probe"]["unknown_after_high"]
    assert report.logit_lens["layers.2"].control.high == raw["logit_lens"]["layers.2"]["control_high"]
    assert report.policy.limits["max_recall"] == 0.05 and report.policy.version == 3
    assert report.config["attack_steps"] == (2, 5)


def test_attacks_and_other_models_of_an_earlier_file(report, raw):
    lessons = report.attacks["relearn"]
    found = raw["attacks"]["relearn"]
    assert lessons.recall_after.value == found["recall_after"] and lessons.compared.high == found["compared_high"]
    assert isinstance(lessons.relearning, Relearning)
    assert [p.step for p in lessons.relearning.curve] == [p["step"] for p in found["curve"]]
    assert report.attacks["prompts"].not_asked == ("alias",)
    assert report.attacks["steer-back"].without == 1.0 and report.attacks["finetune"].text == "corpus"
    assert report.attacks["prune"].settings[1].name == "40% of the weights"
    damaged = report.compare["damaged"]
    assert damaged.method == "not recorded" and damaged.forget.recall.before == report.forget.recall.before
    after = tuple(tuple(point) for point in raw["compare"]["damaged"]["walk"]["layers.2"]["after"])
    assert damaged.walk == {"layers.2": Walk(after=after)}
    acc = TaskMetric(0.31, 0.046, 0.3, 0.046)
    tasks = TaskResult(100, {"acc": acc, "acc_norm": TaskMetric(before=0.35, after=0.34)})
    assert report.lm_eval == {"hellaswag": tasks, "untold": TaskResult()}


def test_null_is_nan(report, raw):
    kind = report.neighbour_kinds["namesake"]
    assert raw["neighbour_kinds"]["namesake"]["recall_after"] is None
    assert kind.n == 0 and math.isnan(kind.recall.after.value) and math.isnan(kind.recall.lost)


def test_it_is_written_as_it_was_read(report, raw, tmp_path):
    """Keys, values and order."""
    assert json.dumps(report_to_json(report)) == json.dumps(raw)
    path = save_report(report, tmp_path / "audit.json")
    assert repr(load_report(path)) == repr(report)


def test_a_made_up_report_is_read_back(one_name, twenty_names, tmp_path):
    for build in (one_name, twenty_names):
        report = replace(build("fail"), seconds_by_part={"recall": 0.5})
        assert load_report(save_report(report, tmp_path / "audit.json")) == replace(
            report, checks=load_report(tmp_path / "audit.json").checks
        ), "NaN in a check's interval is no equal of itself"
        assert repr(load_report(tmp_path / "audit.json")) == repr(report)


def test_a_part_that_was_not_evaluated_has_no_key(one_name):
    whole = report_to_json(one_name())
    report = replace(one_name(), utility=None, walk={}, answers=(), probe=None)
    assert set(whole) - set(report_to_json(report)) == {"utility", "walk", "answers", "probe"}
    assert "attacks" in report_to_json(replace(report, attacks={})), "as before: there, and empty"
    assert findings_to_json(Findings()) == {}


def test_findings_alone_are_written_and_read(report):
    found = replace(Findings(**report.parts()), attacks={}, evaluated=())
    assert repr(findings_from_json(findings_to_json(found))) == repr(found)


def test_what_an_earlier_program_of_this_version_did_not_write_is_nan_or_empty(raw):
    older = json.loads(json.dumps(raw))
    del older["indistinguishability"]["layers.2"]["spelling"], older["policy"]["reported_places"]
    del older["seconds_by_part"], older["compare"], older["lm_eval"], older["fresh_probe"]
    report = report_from_json(older)
    assert math.isnan(report.indistinguishability["layers.2"].spelling)
    assert (report.policy.reported_places, report.compare, report.lm_eval) == ((), {}, {})
    assert report.fresh_probe is None


def test_keys_that_are_not_known_are_left_aside(raw, report):
    """What `wb audit --json` prints beside the audit, and what a benchmark keeps with it."""
    assert repr(report_from_json({**raw, "page": "audit.html", "wall_s": 1.5})) == repr(report)


@pytest.mark.parametrize("version", [VERSION + 1, VERSION - 1, None, "2"])
def test_another_version_is_refused_naming_both(raw, version, tmp_path):
    (tmp_path / "audit.json").write_text(json.dumps({**raw, "schema_version": version}))
    with pytest.raises(SchemaError) as caught:
        load_report(tmp_path / "audit.json")
    assert caught.value.got == f"sae-workbench/audit {version}" and str(tmp_path) in caught.value.what
    assert caught.value.expected == f"sae-workbench/audit {VERSION}"


@pytest.mark.parametrize("text", ["{}", "[1]", '{"schema": "sae-workbench/ledger", "schema_version": 2}'])
def test_what_is_no_audit_is_refused(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SchemaError, match="no audit"):
        load_report(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (("verdict",), None),
        (("request", "unlearned_hash"), None),
        (("attacks", "relearn", "settings"), None),
        (("forget",), "all of them"),
        (("forget", "n"), "six"),
        (("forget", "recall_after"), "much"),
        (("walk", "layers.2", "known"), [[1.0]]),
        (("checks",), 3),
        (("policy", "sha256"), None),
    ],
)
def test_a_file_that_is_not_whole_or_not_right_is_refused(raw, way, value, tmp_path):
    """`None` stands for a key that is not there."""
    broken = json.loads(json.dumps(raw))
    place = broken
    for key in way[:-1]:
        place = place[key]
    place.pop(way[-1])
    if value is not None:
        place[way[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(broken))
    with pytest.raises(FileFormatError, match="cannot read"):
        load_report(tmp_path / "a.json")


def test_a_file_that_is_no_json_or_is_not_there_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff{")
    with pytest.raises(FileFormatError):
        load_report(tmp_path / "a.json")
    with pytest.raises(MissingFileError):
        load_report(tmp_path / "b.json")
