"""leak@k: the estimator against its definition, and the attack on a silenced model and on names never known."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest

from unlearn.auditing.attacks.sampling import attack_sampling, leak_at
from unlearn.auditing.audit import not_tested
from unlearn.auditing.audit_report import Findings
from unlearn.config import AuditConfig


@pytest.mark.parametrize(("n_right", "n_drawn", "k"), [(0, 6, 2), (1, 6, 1), (2, 6, 3), (4, 6, 3), (6, 6, 1)])
def test_the_estimator_is_the_mean_over_all_ways_to_draw_k_of_n(n_right, n_drawn, k):
    drawn = [i < n_right for i in range(n_drawn)]
    ways = [any(picked) for picked in combinations(drawn, k)]
    assert leak_at(n_right, n_drawn, k) == pytest.approx(sum(ways) / len(ways))


@pytest.mark.slow
def test_one_who_asks_often_finds_what_silence_hides(hushed, innocent):
    """Positive control: greedily nothing is said, but 64 draws find it. Negative control: of strangers they do not."""
    found = attack_sampling(hushed)
    by_k = {s.name: s for s in found.settings}
    assert list(by_k) == ["one draw", "one of 8 draws", "one of 64 draws"]
    shares = [s.target.value for s in found.settings]
    assert shares == sorted(shares), "more draws never find less"
    assert by_k["one draw"].target.value < 0.3
    most = by_k["one of 64 draws"]
    assert most.target.value >= most.control.value + 0.3, "six targets: the control's interval alone is wide"
    assert by_k["one of 8 draws"].before > 0.9 and math.isnan(most.before)
    never = attack_sampling(innocent)
    assert never.recall_after.value <= never.compared.high + 0.1


@pytest.mark.slow
def test_fewer_draws_or_none(hushed):
    few = replace(hushed, config=replace(hushed.config, leak_draws=3))
    assert [s.name for s in attack_sampling(few).settings] == ["one draw", "one of 3 draws"]
    none = replace(hushed, config=replace(hushed.config, leak_draws=0, n_samples=0))
    assert attack_sampling(none) is None
    said = not_tested(none, Findings())
    assert "sampling: no answers are drawn (leak_draws)" in said
    assert "answers drawn at temperature one" in said
    found = Findings(attacks={"sampling": attack_sampling(few)}, evaluated=("sampling",))
    said = not_tested(replace(few, config=replace(few.config, n_samples=0)), found)
    assert "more than 3 answers drawn per question (leak_draws)" in said
    assert "answers drawn at temperature one" not in said, "the attack has drawn some"
    assert AuditConfig().quick().leak_draws == 8
