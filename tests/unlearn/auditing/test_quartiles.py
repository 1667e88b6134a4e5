"""Recall by quarter: sorted by value, counted, shown and read back; of the silenced model nothing is left in any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unlearn.auditing.audit_figures import GroupResult
from unlearn.auditing.audit_json import load_report, save_report
from unlearn.auditing.evaluations.quartiles import Sorted, evaluate_quartiles, quarters
from unlearn.pages.audit_page import write_audit_page


def test_questions_are_parted_by_their_value():
    rows = [Sorted(f"t:{i % 5}", float(9 - i), 1.0, float(9 - i >= 8)) for i in range(10)]
    found = quarters(rows, 0)
    assert [(q.low, q.high, q.n) for q in found] == [(0, 2, 3), (3, 5, 3), (6, 7, 2), (8, 9, 2)]
    assert [q.recall.after.value for q in found] == [0, 0, 0, 1], "what was known best is left"
    assert all(q.recall.before.value == 1 for q in found)


def test_they_are_shown_and_read_back(one_name, tmp_path):
    found = {"popularity": quarters([Sorted("t:a", float(i), 1.0, i / 10) for i in range(8)], 0)}
    base = one_name()
    report = replace(base, quartiles=found, forget=base.forget.joined(GroupResult(any_wording=base.forget.recall)))
    assert load_report(save_report(report, tmp_path / "audit.json")).quartiles == found
    page = write_audit_page(report, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Recall of the targets by quarter" in page and "popularity" in page


@pytest.mark.slow
def test_targets_of_a_silenced_model(hushed):
    found = evaluate_quartiles(hushed).quartiles
    assert list(found) == ["probability"], "popularity is in no fact of the embedded world"
    assert sum(q.n for q in found["probability"]) == 12
    assert [q.low for q in found["probability"]] == sorted(q.low for q in found["probability"])
    assert all(q.recall.after.value < 0.1 < 0.6 < q.recall.before.value for q in found["probability"])
    famous = [replace(e, popularity=float(i)) for i, e in enumerate(hushed.forget)]
    found = evaluate_quartiles(replace(hushed, forget=famous)).quartiles
    assert [q.high for q in found["popularity"]] == [1.0, 2.0, 4.0, 5.0]
