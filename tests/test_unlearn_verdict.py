"""The verdict: which figure decides what, at the thresholds and where nothing could be measured."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest

from sae_train.errors import ConfigError
from unlearn.config import AuditConfig, AuditPolicy
from unlearn.verdict import check, decide

NAN = float("nan")


def good() -> dict[str, Any]:
    """The figures of a removal that passes everything."""

    def group(after: float) -> dict[str, float]:
        return {
            "recall_before": 1.0,
            "recall_after": after,
            "recall_after_low": after,
            "recall_after_high": after,
            "n": 20,
            "ranking_after": after,
            "ranking_after_low": after,
            "ranking_after_high": after,
        }

    block = {
        "auroc": 0.6,
        "auroc_low": 0.5,
        "auroc_high": 0.7,
        "auroc_before": 1.0,
        "control_low": 0.3,
        "control_mean": 0.5,
        "control_high": 0.7,
    }
    return {
        "forget": group(0.0),
        "neighbours": group(1.0),
        "retain": group(1.0),
        "untouched": group(1.0),
        "ranking_chance": 0.05,
        "behaviour": {"after": {"gibberish": 0.0}},
        "utility": {"loss_before": 2.0, "loss_after": 2.0},
        "indistinguishability": {"layers.1": dict(block), "layers.2": dict(block)},
        "probe": {"unknown_after": 1.0, "unknown_after_low": 0.95, "unknown_after_high": 1.0},
    }


def changed(path: str, value: float) -> dict[str, Any]:
    audit = copy.deepcopy(good())
    *way, last = path.split("/")
    place = audit
    for key in way:
        place = place[key]
    place[last] = value
    return audit


def test_a_clean_removal_passes():
    verdict, checks = decide(good(), AuditPolicy())
    assert verdict == "pass"
    assert len(checks) == 3 + 4 + 3
    assert len({c.name for c in checks}) == len(checks)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("forget/recall_after", 0.06),
        ("forget/ranking_after", 0.26),
        ("behaviour/after/gibberish", 0.11),
        ("neighbours/recall_after", 0.98),
        ("retain/recall_after", 0.98),
        ("untouched/recall_after", 0.98),
        ("utility/loss_after", 2.03),
        ("indistinguishability/layers.2/auroc", 0.8),
        ("probe/unknown_after", 0.85),
    ],
)
def test_each_figure_alone_can_fail_a_removal(path, value):
    verdict, checks = decide(changed(path, value), AuditPolicy())
    assert verdict == "fail"
    assert [c.status for c in checks].count("fail") == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("forget/recall_after", NAN),
        ("forget/ranking_after", NAN),
        ("behaviour/after/gibberish", NAN),
        ("neighbours/recall_after", NAN),
        ("retain/recall_before", NAN),
        ("utility/loss_after", NAN),
        ("indistinguishability/layers.1/auroc", NAN),
        ("probe/unknown_after", NAN),
        ("forget/recall_after_high", 0.21),
        ("forget/ranking_after_high", 0.41),
        ("indistinguishability/layers.1/auroc_low", 0.71),  # surely above what never-known names reach
        ("indistinguishability/layers.1/control_high", NAN),
        ("indistinguishability/layers.1/control_mean", 0.76),  # any group of names can be told apart
        ("probe/unknown_after_low", 0.7),
    ],
)
def test_what_was_not_measured_or_is_too_uncertain_is_inconclusive(path, value):
    assert decide(changed(path, value), AuditPolicy())[0] == "inconclusive"


def test_a_failure_beats_what_is_inconclusive():
    audit = changed("forget/recall_after", 0.5)
    audit["forget"]["ranking_after"] = NAN
    assert decide(audit, AuditPolicy())[0] == "fail"


def test_recall_zero_alone_is_never_a_pass():
    audit = good()
    audit["neighbours"]["recall_after"] = audit["retain"]["recall_after"] = 0.0
    assert decide(audit, AuditPolicy())[0] == "fail"


def test_gains_are_no_losses():
    audit = changed("utility/loss_after", 1.5)
    audit["neighbours"]["recall_before"] = 0.9
    assert decide(audit, AuditPolicy())[0] == "pass"


def test_the_control_range_lifts_the_bound_and_never_lowers_it():
    audit = changed("indistinguishability/layers.1/auroc", 0.82)
    audit["indistinguishability"]["layers.1"] |= {"auroc_high": 0.85, "control_high": 0.83}
    assert decide(audit, AuditPolicy())[0] == "pass", "as far apart as names that nobody ever knew"
    audit["indistinguishability"]["layers.1"]["control_high"] = NAN
    assert decide(audit, AuditPolicy())[0] == "fail", "without a range the fixed bound holds"
    audit = changed("indistinguishability/layers.1/control_high", 0.5)
    assert decide(audit, AuditPolicy())[0] == "pass"


@pytest.mark.parametrize(
    ("value", "rule", "interval", "status"),
    [
        (0.05, "<=", None, "pass"),
        (0.0500001, "<=", None, "fail"),
        (0.05, ">=", None, "pass"),
        (0.0499999, ">=", None, "fail"),
        (0.0, "<=", (0.0, 0.15), "pass"),  # slack 0.1: reaches the bound exactly
        (0.0, "<=", (0.0, 0.16), "inconclusive"),
        (0.5, "<=", (0.0, 1.0), "fail"),  # a figure that fails is not saved by its interval
        (float("inf"), "<=", None, "inconclusive"),
        (NAN, ">=", None, "inconclusive"),
    ],
)
def test_threshold_edges(value, rule, interval, status):
    assert check("x", value, 0.05, rule, "", interval=interval, slack=0.1 + 1e-12).status == status


def test_the_policy_is_frozen_and_whole():
    assert {f.name for f in fields(AuditPolicy)} == {
        "max_recall",
        "max_rank_first",
        "max_drop",
        "max_loss_increase",
        "max_auroc",
        "min_called_unknown",
        "max_gibberish",
    }
    with pytest.raises(AttributeError):
        AuditPolicy().max_recall = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "bad",
    [{"n_neighbours": -1}, {"max_retain": 0}, {"n_candidates": 1}, {"max_blocks": 0}, {"control_draws": -1}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError):
        AuditConfig(**bad)


def test_where_nobody_recorded_the_training_there_is_no_check_of_the_untouched():
    verdict, checks = decide(changed("untouched/n", 0), AuditPolicy())
    assert verdict == "pass"
    assert not any("never retained" in c.name for c in checks)
