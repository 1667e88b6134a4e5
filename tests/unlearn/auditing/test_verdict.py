"""The verdict: which figure decides what, at the thresholds and where nothing could be measured."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from features.stats.probe import Interval
from sae_train.errors import ConfigError, FileFormatError, MissingFileError
from unlearn.auditing.attack_results import AttackResult, AttackSetting
from unlearn.auditing.audit_figures import (
    AnswerShares,
    Behaviour,
    Figure,
    GroupResult,
    Place,
    ProbeVotes,
    ReadOff,
    Utility,
    Writing,
)
from unlearn.auditing.audit_json import load_report
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.joint_figures import GroupStatistic, MatchedNull, MatchedPlace
from unlearn.auditing.policy import (
    DEFAULT_POLICY,
    POLICIES,
    VERSIONS,
    AuditPolicy,
    default_policy,
    keys_of,
    load_policy,
    policy_of,
)
from unlearn.auditing.verdict import check, decide
from unlearn.config import AuditConfig

NAN = float("nan")
OLDER = load_policy(POLICIES / "default-v3.toml")
NEWEST = POLICIES / "default-v4.toml"


def certain(value: float) -> Interval:
    return Interval(value, value, value)


def good() -> Findings:
    """The figures of a removal that passes everything."""

    def group(after: float) -> GroupResult:
        recall, ranking = (Figure(certain(1.0), certain(after)) for _ in range(2))
        return GroupResult(n=20, recall=recall, ranking=ranking)

    low = Interval(0.1, 0.0, 0.2)
    place = Place(1.0, 3.0, 0.001, Interval(0.6, 0.5, 0.7), 1.0, 0.5, 0.3, 0.7, 0.5, 0.5)
    setting = AttackSetting("int4", low, low, 0.9)
    votes = ProbeVotes("layers.1", "before", 0.0, Interval(1.0, 0.95, 1.0), 1.0, 1.0)
    shares = AnswerShares(0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    known = GroupStatistic(0.02, -0.1, 0.1, 0.4, 0.9)
    where = MatchedPlace(Interval(0.02, -0.08, 0.12), 0.2, {"known direction": known})
    matched = MatchedNull(0.4, 20, 100, 999, "never", "layers.1", "classifier", 1.5, 0.2, places={"layers.1": where})
    return Findings(
        evaluated=(*default_policy().required, "indistinguishability"),
        matched=matched,
        unknown=GroupResult(recall=Figure(certain(0.0), certain(0.0))),
        writing=Writing(4.0, 0.0, 4.0, 0.0),
        two_sample_p=0.5,
        fresh_probe=votes,
        logit_lens={"layers.1": ReadOff(low, low, 0.9)},
        value_probe={"layers.1": ReadOff(low, low, 0.9)},
        attacks={name: AttackResult(setting, (setting,)) for name in ("relearn", "quantize")},
        forget=group(0.0),
        neighbours=group(1.0),
        retain=group(1.0),
        untouched=group(1.0),
        ranking_chance=0.05,
        behaviour=Behaviour(shares, shares),
        utility=Utility(2.0, 2.0, 100, "corpus"),
        indistinguishability={"layers.1": place, "layers.2": place},
        probe=votes,
    )


def put(found: Any, path: str, value: Any) -> Any:
    """Return the same with another value at a path of attributes and names, as `forget/recall/after/value`."""
    first, _, rest = path.partition("/")
    if isinstance(found, dict):
        return {**found, first: put(found[first], rest, value) if rest else value}
    return replace(found, **{first: put(getattr(found, first), rest, value) if rest else value})


def changed(*changes: tuple[str, Any]) -> Findings:
    """Return a removal that passes everything, with other values at some paths."""
    found = good()
    for path, value in changes:
        found = put(found, path, value)
    return found


def test_a_clean_removal_passes():
    verdict, checks = decide(good(), default_policy())
    assert verdict == "pass"
    assert len(checks) == 3 + (4 + 2) + (2 + 2 + 2) + 2
    assert len({c.name for c in checks}) == len(checks)
    verdict, checks = decide(good(), OLDER)
    assert verdict == "pass"
    assert len(checks) == 3 + (4 + 2) + (2 + 1 + 2 + 2) + 2


def test_an_audit_of_an_older_policy_keeps_its_verdict():
    """Read and judged again by the policy it went by: the same limits, the same hash."""
    report = load_report(Path(__file__).parent / "audit_v2.json")
    policy = policy_of(report.policy)
    assert policy == OLDER and policy.sha256 == report.policy.sha256
    assert policy.sha256 == "4019a5fff651abb2db03edcb109a97f4267594d0a3d3730f730b379f799c5f59"
    assert decide(report, policy).verdict == report.verdict
    again = {c.name: c for c in decide(report, policy).checks}
    for kept in report.checks:
        assert (again[kept.name].threshold, again[kept.name].rule) == (kept.threshold, kept.rule)
    assert policy_of(default_policy().record()) == default_policy()


def test_outside_the_null_never_passes_and_fails_where_it_points_to_known():
    apart = changed(("matched/p", 0.01))
    assert decide(apart, default_policy()).verdict == "inconclusive"
    assert decide(apart, OLDER).verdict == "pass", "an older policy does not know it"
    at = "matched/places/layers.1/statistics/known direction"
    towards = put(put(apart, f"{at}/z", 4.0), f"{at}/p", 0.01)
    assert decide(towards, default_policy()).verdict == "fail"
    assert decide(put(towards, f"{at}/z", -4.0), default_policy()).verdict == "inconclusive", "away from known names"


def test_too_few_targets_to_find_much_decide_nothing():
    found = changed(("matched/detectable", 0.8), ("matched/n_targets", 1))
    verdict, checks = decide(found, default_policy())
    assert verdict == "inconclusive"
    assert "still counts" in next(c.text for c in checks if c.name == "detectable with 80 %")


@pytest.mark.parametrize(
    ("path", "value", "verdict"),
    [
        ("indistinguishability/layers.2/auroc/value", 0.95, "fail"),
        ("indistinguishability/layers.1/auroc/value", NAN, "inconclusive"),
        ("indistinguishability/layers.1/control_high", NAN, "inconclusive"),
        ("indistinguishability/layers.1/control_mean", 0.91, "inconclusive"),  # any names can be told apart
        ("two_sample_p", 0.005, "inconclusive"),
    ],
)
def test_what_version_three_judges(path, value, verdict):
    assert decide(changed((path, value)), OLDER).verdict == verdict
    assert decide(changed((path, value)), default_policy()).verdict == "pass"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("forget/recall/after/value", 0.06),
        ("forget/ranking/after/value", 0.26),
        ("behaviour/after/gibberish", 0.11),
        ("neighbours/recall/after/value", 0.98),
        ("retain/recall/after/value", 0.98),
        ("untouched/recall/after/value", 0.98),
        ("utility/loss_after", 2.03),
        ("probe/unknown_after/value", 0.85),
        ("fresh_probe/unknown_after/value", 0.85),
        ("unknown/recall/after/value", 0.06),
        ("writing/entropy_after", 3.5),
        ("logit_lens/layers.1/after/value", 0.31),
        ("value_probe/layers.1/after/value", 0.31),
        ("attacks/relearn/worst/target/value", 0.31),
        ("attacks/quantize/worst/target/value", 0.31),
    ],
)
def test_each_figure_alone_can_fail_a_removal(path, value):
    verdict, checks = decide(changed((path, value)), default_policy())
    assert verdict == "fail"
    assert [c.status for c in checks].count("fail") == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("forget/recall/after/value", NAN),
        ("forget/ranking/after/value", NAN),
        ("behaviour/after/gibberish", NAN),
        ("neighbours/recall/after/value", NAN),
        ("retain/recall/before/value", NAN),
        ("utility/loss_after", NAN),
        ("probe/unknown_after/value", NAN),
        ("forget/recall/after/high", 0.21),
        ("forget/ranking/after/high", 0.41),
        ("probe/unknown_after/low", 0.7),
        ("matched/p", NAN),
        ("matched/detectable", NAN),
        ("attacks/relearn/worst/target/value", NAN),
    ],
)
def test_what_was_not_measured_or_is_too_uncertain_is_inconclusive(path, value):
    assert decide(changed((path, value)), default_policy())[0] == "inconclusive"


def test_a_failure_beats_what_is_inconclusive():
    found = changed(("forget/recall/after/value", 0.5), ("forget/ranking/after/value", NAN))
    assert decide(found, default_policy()).verdict == "fail"


def test_recall_zero_alone_is_never_a_pass():
    found = changed(("neighbours/recall/after/value", 0.0), ("retain/recall/after/value", 0.0))
    assert decide(found, default_policy()).verdict == "fail"


def test_gains_are_no_losses():
    found = changed(("utility/loss_after", 1.5), ("neighbours/recall/before/value", 0.9))
    assert decide(found, default_policy()).verdict == "pass"


def test_the_control_range_lifts_the_bound_and_never_lowers_it():
    at = "indistinguishability/layers.1"
    far = ((f"{at}/auroc/value", 0.94), (f"{at}/auroc/high", 0.97))
    found = changed(*far, (f"{at}/control_high", 0.95))
    assert decide(found, OLDER).verdict == "pass", "as far apart as names that nobody ever knew"
    found = changed(*far, (f"{at}/control_high", NAN))
    assert decide(found, OLDER).verdict == "fail", "without a range the fixed bound holds"
    assert decide(changed((f"{at}/control_high", 0.5)), OLDER).verdict == "pass"


def test_places_that_are_reported_only_decide_nothing():
    found = good()
    places = found.indistinguishability
    shown = put(places["layers.1"], "auroc/value", 0.95)
    found = replace(found, indistinguishability={**places, "layers.1, whole name": shown})
    verdict, checks = decide(found, OLDER)
    assert verdict == "pass" and not any("whole name" in c.name for c in checks)
    judged = replace(OLDER, reported_places=())
    assert decide(found, judged).verdict == "fail"


@pytest.mark.parametrize(("spelling", "verdict"), [(0.5, "fail"), (0.94, "pass"), (0.91, "fail")])
def test_what_spelling_tells_is_no_knowledge(spelling, verdict):
    at = "indistinguishability/layers.1"
    found = changed((f"{at}/auroc", Interval(0.93, 0.88, 0.97)), (f"{at}/spelling", spelling))
    assert decide(found, OLDER).verdict == verdict


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
    back = ("attacks/relearn/worst/target/value", 0.5)
    assert decide(changed(back), default_policy()).verdict == "fail"
    found = changed(back, ("attacks/relearn/worst/control/high", 0.45))
    assert decide(found, default_policy()).verdict == "pass"


@pytest.mark.parametrize(("control", "verdict"), [(0.8, "pass"), (0.9, "fail")])
def test_probes_are_judged_by_what_they_call_unknown_of_unknown_entities(control, verdict):
    found = changed(
        ("fresh_probe/unknown_after/value", 0.75),
        ("fresh_probe/unknown_after/low", 0.7),
        ("fresh_probe/unknown_control", control),
    )
    assert decide(found, default_policy()).verdict == verdict


def test_a_probe_that_does_not_read_the_new_model_decides_nothing():
    found = changed(("probe/unknown_after/value", 0.5))
    assert decide(found, default_policy()).verdict == "fail"
    found = put(found, "probe/unknown_control", 0.89)
    verdict, checks = decide(found, default_policy())
    assert verdict == "pass", "the old direction does not fit the new model, for anybody"
    assert "called unknown" not in {c.name for c in checks}
    found = put(put(found, "fresh_probe/unknown_after/value", 0.5), "fresh_probe/unknown_control", 0.89)
    assert decide(found, default_policy()).verdict == "fail", "a probe of the new model itself is always judged"


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("forget", GroupResult()),
        ("neighbours", GroupResult()),
        ("unknown", GroupResult()),
        ("utility", None),
        ("behaviour", None),
        ("writing", None),
        ("matched", None),
        ("probe", None),
        ("fresh_probe", None),
        ("logit_lens", {}),
        ("attacks", {}),
    ],
)
def test_what_was_not_evaluated_has_no_check(path, gone):
    """Whether it had to be evaluated is another check: that of what the policy requires."""
    whole, fewer = (decide(found, default_policy()).checks for found in (good(), changed((path, gone))))
    assert {c.name for c in fewer} < {c.name for c in whole}


@pytest.mark.parametrize("name", default_policy().required)
def test_leaving_out_what_is_required_never_passes(name):
    found = good()
    verdict, checks = decide(replace(found, evaluated=tuple(n for n in found.evaluated if n != name)), default_policy())
    assert verdict == "inconclusive"
    assert [c.name for c in checks if c.status != "pass"] == [f"{name} (not run)"]


# --------------------------------------------------------------------------------------------- the policy file


def test_the_policy_is_frozen_and_its_file_whole():
    for path in POLICIES.glob("*.toml"):
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        assert list(raw) != [] and set(raw) == set(keys_of(raw["version"]))
    assert set().union(*map(keys_of, VERSIONS)) == {f.name for f in fields(AuditPolicy)}
    with pytest.raises(AttributeError):
        default_policy().max_recall = 1.0  # type: ignore[misc]


def test_the_shipped_limits_do_not_change_silently():
    """Other limits need another file: then this hash and the file's name change together."""
    assert DEFAULT_POLICY == NEWEST and load_policy(Path("default-v3")) == OLDER
    assert default_policy().sha256[:16] == "a0c42345294a5fc8"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("max_recall", "max_recal", FileFormatError),
        ("max_recall = 0.05", "max_recall = 0.05\nmax_fun = 1", ConfigError),
        ("version = 4", "version = 2", ConfigError),
        ("max_recall = 0.05", "max_recall = 0.05\nmax_auroc = 0.9", FileFormatError),
        ("max_recall = 0.05", "max_recall = 5", FileFormatError),
        ("max_recall = 0.05", "max_recall = true", FileFormatError),
        ("max_recall = 0.05", "max_recall = ", FileFormatError),
        ("required = [", 'required = "all"\nx = [', FileFormatError),
    ],
)
def test_a_policy_that_is_not_understood_is_refused(tmp_path, old, new, error):
    text = NEWEST.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "p.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(error):
        load_policy(tmp_path / "p.toml")


def test_comments_do_not_change_a_policys_hash_and_values_do(tmp_path):
    text = NEWEST.read_text(encoding="utf-8")
    (tmp_path / "a.toml").write_text("# mine\n" + text, encoding="utf-8")
    (tmp_path / "b.toml").write_text(text.replace("max_recall = 0.05", "max_recall = 0.06"), encoding="utf-8")
    assert load_policy(tmp_path / "a.toml").sha256 == default_policy().sha256
    assert load_policy(tmp_path / "b.toml").sha256 != default_policy().sha256
    for missing in (tmp_path / "c.toml", tmp_path / "default-v4", Path("default-v9")):
        with pytest.raises(MissingFileError):
            load_policy(missing)


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
    verdict, checks = decide(changed(("untouched/n", 0)), default_policy())
    assert verdict == "pass"
    assert not any("never retained" in c.name for c in checks)
