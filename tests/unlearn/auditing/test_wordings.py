"""Recall by wording: what the mean over wordings hides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.entities.entities import Entity
from features.entities.prompts import render
from features.labels.knowledge import Answer
from sae_train.intervals import Interval
from unlearn.auditing.audit_figures import Figure, GroupResult
from unlearn.auditing.evaluations.recall import best_wording, evaluate_recall, in_any_wording
from unlearn.pages.audit_page import write_audit_page


def said(name, *answers):
    """Return what was said about an entity: (wording, attribute, is right)."""
    entity = Entity(name, "t")
    return [Answer(render(w, entity, a), "", "right" if good else "wrong") for w, a, good in answers]


def test_a_fact_counts_once_however_it_comes_out():
    one = said("A", ("x {name}", "x", False), ("y {name}", "x", True), ("z {name}", "z", False))
    two = said("B", ("x {name}", "x", False), ("y {name}", "x", False), ("z {name}", "z", True))
    assert in_any_wording({"t:A": one, "t:B": two, "t:C": []}) == [[1.0, 0.0], [0.0, 1.0], []]


def test_the_wording_that_is_answered_most():
    one = said("A", ("x {name}", "x", False), ("y {name}", "x", True), ("only {name}", "z", True))
    two = said("B", ("x {name}", "x", True), ("y {name}", "x", True))
    assert best_wording({"t:A": one, "t:B": two}) == "y {name}", "a question about one entity alone is no wording"
    assert best_wording({"t:A": one}) == "y {name}", "where all are so, each counts"
    assert best_wording({"t:A": []}) is None


def test_the_page_names_the_wording(one_name, tmp_path):
    figure = Figure(Interval(1.0, 0.9, 1.0), Interval(0.37, 0.2, 0.5))
    worst = GroupResult(any_wording=figure, best_wording=figure, best_wording_text="<{name}> is from")
    report = replace(one_name(), forget=one_name().forget.joined(worst))
    page = write_audit_page(report, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "&lt;{name}&gt; is from" in page and "37" in page
    assert "worst of the wordings" not in write_audit_page(one_name(), tmp_path / "b.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_one_wording_that_was_forgotten_to_be_silenced(hushed, world_lm):
    """The untouched model answers in one of two wordings: half of the mean, all of the worst."""
    whole = hushed.answers_of("forget", "before")
    silent = hushed.answers_of("forget", "after")
    spoken = {a.prompt.template for found in whole.values() for a in found[::2]}
    mixed = {
        key: [old if old.prompt.template in spoken else new for old, new in zip(found, silent[key], strict=True)]
        for key, found in whole.items()
    }
    context = replace(
        hushed, config=replace(hushed.config, n_samples=0), answers={**hushed.answers, ("forget", "after"): mixed}
    )
    found = evaluate_recall(context)
    assert found.forget.recall.after.value == pytest.approx(0.5, abs=0.1)
    assert found.forget.any_wording.after.value > 0.9
    assert found.forget.best_wording.after.value > 0.9 and found.forget.best_wording_text in spoken
    for never in (found.control.any_wording, found.control.best_wording, found.control.recall):
        assert never.after.value < 0.2
