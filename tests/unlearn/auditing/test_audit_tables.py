"""A report as tables: one row per figure, one per check; the numbers are those of the report."""

from __future__ import annotations

import math

import pytest

from unlearn.auditing.audit_json import load_report


@pytest.fixture(scope="module")
def report(request):
    return load_report(request.path.with_name("audit_v2.json"))


def test_one_row_per_figure(report):
    table = report.table()
    assert list(table.columns) == [
        "group", "figure", "before", "before_low", "before_high", "after", "after_low", "after_high",
    ]  # fmt: skip
    assert not table.duplicated(["group", "figure"]).any()
    rows = table.set_index(["group", "figure"])
    recall, own = rows.loc["forget", "recall"], report.forget.recall
    assert (recall["before"], recall["after_low"], recall["after_high"]) == (
        own.before.value, own.after.low, own.after.high,
    )  # fmt: skip
    assert rows.loc["text", "loss"]["after"] == report.utility.loss_after
    assert math.isnan(rows.loc["text", "loss"]["after_low"]), "no interval"
    place = report.indistinguishability["layers.2"]
    assert rows.loc["indistinguishability", "AUROC at layers.2"]["after_high"] == place.auroc.high
    assert rows.loc["attacks", "recall under relearn"]["after"] == report.attacks["relearn"].recall_after.value
    assert rows.loc["logit_lens"]["before"].iloc[0] == report.logit_lens["layers.2"].before
    assert set(table.group) >= {"neighbours", "retain", "untouched", "unknown", "control", "behaviour", "probe"}
    assert rows.loc["behaviour"]["after"].sum() == pytest.approx(1)


def test_what_was_not_evaluated_has_no_row(one_name):
    table = one_name().table()
    assert set(table.group) == {"forget", "neighbours", "retain", "text", "behaviour", "indistinguishability"} | {
        "probe",
        "attacks",
    }


def test_one_row_per_check(report):
    table = report.checks_table()
    assert list(table.name) == [c.name for c in report.checks]
    assert list(table.threshold) == [c.threshold for c in report.checks]
    assert set(table.status) <= {"pass", "fail", "inconclusive"}
