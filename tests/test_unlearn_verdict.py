"""The verdict: which figure decides what, at the thresholds and where nothing could be measured."""

from __future__ import annotations

import copy
import tomllib
from dataclasses import fields, replace
from typing import Any

import pytest

from sae_train.errors import ConfigError, FileFormatError, MissingFileError
from unlearn.config import AuditConfig
from unlearn.policy import DEFAULT_POLICY, AuditPolicy, default_policy, load_policy
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
        "spelling": 0.5,
        "control_high": 0.7,
    }
    place = {"after": 0.1, "after_low": 0.0, "after_high": 0.2, "before": 0.9}
    place |= {"control": 0.1, "control_low": 0.0, "control_high": 0.2}
    attack = {"recall_after": 0.1, "recall_after_low": 0.0, "recall_after_high": 0.2, "setting": "int4"}
    attack |= {"compared_value": 0.1, "compared_high": 0.2}
    probe = {"unknown_after": 1.0, "unknown_after_low": 0.95, "unknown_after_high": 1.0, "unknown_control": 1.0}
    return {
        "evaluated": list(default_policy().required),
        "unknown": {"recall_before": 0.0, "recall_after": 0.0},
        "writing": {"entropy_before": 4.0, "entropy_after": 4.0},
        "two_sample_p": 0.5,
        "fresh_probe": dict(probe),
        "logit_lens": {"layers.1": dict(place)},
        "value_probe": {"layers.1": dict(place)},
        "attacks": {"relearn": dict(attack), "quantize": dict(attack)},
        "forget": group(0.0),
        "neighbours": group(1.0),
        "retain": group(1.0),
        "untouched": group(1.0),
        "ranking_chance": 0.05,
        "behaviour": {"after": {"gibberish": 0.0}},
        "utility": {"loss_before": 2.0, "loss_after": 2.0},
        "indistinguishability": {"layers.1": dict(block), "layers.2": dict(block)},
        "probe": probe,
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
    verdict, checks = decide(good(), default_policy())
    assert verdict == "pass"
    assert len(checks) == 3 + (4 + 2) + (2 + 1 + 2 + 2) + 2
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
        ("indistinguishability/layers.2/auroc", 0.95),
        ("probe/unknown_after", 0.85),
        ("fresh_probe/unknown_after", 0.85),
        ("unknown/recall_after", 0.06),
        ("writing/entropy_after", 3.5),
        ("logit_lens/layers.1/after", 0.31),
        ("value_probe/layers.1/after", 0.31),
        ("attacks/relearn/recall_after", 0.31),
        ("attacks/quantize/recall_after", 0.31),
    ],
)
def test_each_figure_alone_can_fail_a_removal(path, value):
    verdict, checks = decide(changed(path, value), default_policy())
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
        ("indistinguishability/layers.1/control_high", NAN),
        ("indistinguishability/layers.1/control_mean", 0.91),  # any group of names can be told apart
        ("probe/unknown_after_low", 0.7),
        ("two_sample_p", 0.005),
        ("attacks/relearn/recall_after", NAN),
    ],
)
def test_what_was_not_measured_or_is_too_uncertain_is_inconclusive(path, value):
    assert decide(changed(path, value), default_policy())[0] == "inconclusive"


def test_a_failure_beats_what_is_inconclusive():
    audit = changed("forget/recall_after", 0.5)
    audit["forget"]["ranking_after"] = NAN
    assert decide(audit, default_policy())[0] == "fail"


def test_recall_zero_alone_is_never_a_pass():
    audit = good()
    audit["neighbours"]["recall_after"] = audit["retain"]["recall_after"] = 0.0
    assert decide(audit, default_policy())[0] == "fail"


def test_gains_are_no_losses():
    audit = changed("utility/loss_after", 1.5)
    audit["neighbours"]["recall_before"] = 0.9
    assert decide(audit, default_policy())[0] == "pass"


def test_the_control_range_lifts_the_bound_and_never_lowers_it():
    audit = changed("indistinguishability/layers.1/auroc", 0.94)
    audit["indistinguishability"]["layers.1"] |= {"auroc_high": 0.97, "control_high": 0.95}
    assert decide(audit, default_policy())[0] == "pass", "as far apart as names that nobody ever knew"
    audit["indistinguishability"]["layers.1"]["control_high"] = NAN
    assert decide(audit, default_policy())[0] == "fail", "without a range the fixed bound holds"
    audit = changed("indistinguishability/layers.1/control_high", 0.5)
    assert decide(audit, default_policy())[0] == "pass"


def test_places_that_are_reported_only_decide_nothing():
    audit = good()
    audit["indistinguishability"]["layers.1, whole name"] = {**audit["indistinguishability"]["layers.1"], "auroc": 0.95}
    verdict, checks = decide(audit, default_policy())
    assert verdict == "pass" and not any("whole name" in c.name for c in checks)
    judged = replace(default_policy(), reported_places=())
    assert decide(audit, judged)[0] == "fail"


def test_what_spelling_tells_is_no_knowledge():
    audit = changed("indistinguishability/layers.1/auroc", 0.93)
    audit["indistinguishability"]["layers.1"] |= {"auroc_low": 0.88, "auroc_high": 0.97}
    assert decide(audit, default_policy())[0] == "fail"
    audit["indistinguishability"]["layers.1"]["spelling"] = 0.94
    assert decide(audit, default_policy())[0] == "pass"
    audit["indistinguishability"]["layers.1"]["spelling"] = 0.91
    assert decide(audit, default_policy())[0] == "fail"


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


def test_attacks_are_judged_by_what_never_known_entities_answer():
    audit = changed("attacks/relearn/recall_after", 0.5)
    assert decide(audit, default_policy())[0] == "fail"
    audit["attacks"]["relearn"]["compared_high"] = 0.45
    assert decide(audit, default_policy())[0] == "pass"


def test_probes_are_judged_by_what_they_call_unknown_of_unknown_entities():
    audit = changed("fresh_probe/unknown_after", 0.75)
    audit["fresh_probe"] |= {"unknown_after_low": 0.7, "unknown_control": 0.8}
    assert decide(audit, default_policy())[0] == "pass"
    audit["fresh_probe"]["unknown_control"] = 0.9
    assert decide(audit, default_policy())[0] == "fail"


def test_a_probe_that_does_not_read_the_new_model_decides_nothing():
    audit = changed("probe/unknown_after", 0.5)
    assert decide(audit, default_policy())[0] == "fail"
    audit["probe"]["unknown_control"] = 0.89
    verdict, checks = decide(audit, default_policy())
    assert verdict == "pass", "the old direction does not fit the new model, for anybody"
    assert "called unknown" not in {c.name for c in checks}
    audit["fresh_probe"] |= {"unknown_after": 0.5, "unknown_control": 0.89}
    assert decide(audit, default_policy())[0] == "fail", "a probe of the new model itself is always judged"


@pytest.mark.parametrize("name", default_policy().required)
def test_leaving_out_what_is_required_never_passes(name):
    audit = good()
    audit["evaluated"].remove(name)
    verdict, checks = decide(audit, default_policy())
    assert verdict == "inconclusive"
    assert [c.name for c in checks if c.status != "pass"] == [f"{name} (not run)"]


# --------------------------------------------------------------------------------------------- the policy file


def test_the_policy_is_frozen_and_its_file_whole():
    assert {f.name for f in fields(AuditPolicy)} == set(tomllib.loads(DEFAULT_POLICY.read_text(encoding="utf-8")))
    with pytest.raises(AttributeError):
        default_policy().max_recall = 1.0  # type: ignore[misc]


def test_the_shipped_limits_do_not_change_silently():
    """Other limits need another file: then this hash and the file's name change together."""
    assert DEFAULT_POLICY.name == "default-v3.toml"
    assert default_policy().sha256[:16] == "4019a5fff651abb2"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("max_recall", "max_recal", FileFormatError),
        ("max_recall = 0.05", "max_recall = 0.05\nmax_fun = 1", ConfigError),
        ("version = 3", "version = 2", ConfigError),
        ("max_recall = 0.05", "max_recall = 5", FileFormatError),
        ("max_recall = 0.05", "max_recall = true", FileFormatError),
        ("max_recall = 0.05", "max_recall = ", FileFormatError),
        ("required = [", 'required = "all"\nx = [', FileFormatError),
    ],
)
def test_a_policy_that_is_not_understood_is_refused(tmp_path, old, new, error):
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "p.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(error):
        load_policy(tmp_path / "p.toml")


def test_comments_do_not_change_a_policys_hash_and_values_do(tmp_path):
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    (tmp_path / "a.toml").write_text("# mine\n" + text, encoding="utf-8")
    (tmp_path / "b.toml").write_text(text.replace("max_recall = 0.05", "max_recall = 0.06"), encoding="utf-8")
    assert load_policy(tmp_path / "a.toml").sha256 == default_policy().sha256
    assert load_policy(tmp_path / "b.toml").sha256 != default_policy().sha256
    with pytest.raises(MissingFileError):
        load_policy(tmp_path / "c.toml")


@pytest.mark.parametrize(
    "bad",
    [
        {"n_neighbours": -1},
        {"max_retain": 0},
        {"n_candidates": 1},
        {"max_blocks": 0},
        {"control_draws": -1},
        {"permutations": 0},
        {"n_samples": -1},
        {"attack_steps": ()},
        {"attack_lrs": (0.0,)},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError):
        AuditConfig(**bad)


def test_where_nobody_recorded_the_training_there_is_no_check_of_the_untouched():
    verdict, checks = decide(changed("untouched/n", 0), default_policy())
    assert verdict == "pass"
    assert not any("never retained" in c.name for c in checks)
