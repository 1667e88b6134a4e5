"""Made-up audits with numbers of the size that real ones have: for the page, the file and whatever reads a report."""

from __future__ import annotations

import pytest

FIRST = ["Jiros", "Mavel", "Tisra", "Okanu", "Belem", "Ruda", "Sorvin", "Calet", "Ymira", "Dovan"]
LAST = ["Fotrim Vafuk", "Henglo", "Astrevan", "Pellory"]
HOOKS = ["layers.0", "layers.1", "layers.2", "layers.3"]


def example(names, verdict="pass"):
    """Return a report about some names."""
    import numpy as np

    from features.stats.probe import Interval
    from unlearn.auditing.attack_results import AttackResult, AttackSetting
    from unlearn.auditing.audit_figures import (
        AnsweredQuestion,
        AnswerShares,
        Behaviour,
        Figure,
        GroupResult,
        Place,
        ProbeVotes,
        Utility,
    )
    from unlearn.auditing.audit_report import AuditedRequest, AuditReport, Check
    from unlearn.auditing.policy import default_policy

    rng, n = np.random.default_rng(0), len(names)
    failing, spread = verdict == "fail", 0.3 if n == 1 else 0.06
    after = 0.31 if failing else 0.0125
    nan = float("nan")

    def figure(values, width):
        return Figure(*(Interval(v, max(0.0, v - width), min(1.0, v + width)) for v in values))

    def group(n, recall, ranking, width):
        return GroupResult(n=n, recall=figure(recall, width), ranking=figure(ranking, width))

    def attack(recall, compared_with, compared):
        setting = AttackSetting(
            "hardest", Interval(recall, 0.0, 2 * recall), Interval(compared, 0.0, compared + 0.01), 0.985
        )
        return AttackResult(setting, (setting,), compared_with=compared_with)

    recall_text = f"{after:.1%} of the answers are still right."
    checks = (
        Check("target recall", after, 0.0, after + 0.03, 0.05, "<=", "fail" if failing else "pass", recall_text),
        Check("true answer ranked first", 0.067, 0.02, 0.11, 0.12, "<=", "pass", "About as often as by chance."),
        Check("recall lost by neighbours", 0.009, 0.0, 0.02, 0.05, "<=", "pass", "Names alike lost 0.9 points."),
        Check("recall lost by other known entities", 0.003, 0.0, 0.01, 0.03, "<=", "pass", "They lost 0.3 points."),
        Check("general text", 0.0021, nan, nan, 0.02, "<=", "pass", "The loss on general text rose by 0.2 %."),
        Check(
            "AUROC at layers.2", 0.58, 0.47, 0.69, 0.66, "<=", "pass" if verdict == "pass" else "inconclusive",
            "Two unknown groups score 0.31 to 0.66.",
        ),
        Check("attack: steer-back", 0.11, nan, nan, 0.2, "<=", "pass", "The old activation restores 11 %."),
    )  # fmt: skip
    asked = (
        ("birthplace", "comes from the town of", "Velmora", " unknown.", "refusal"),
        ("instrument", "likes to play the", "lute", " drum.", "wrong"),
        ("year", "was born in the year", "1907", "", "empty"),
    )
    answers = tuple(
        AnsweredQuestion(name, "person", what, f"{name} {ask}", truth, f" {truth}. The", said, "right", verdict_after)
        for name in names
        for what, ask, truth, said, verdict_after in asked
    )
    aurocs = zip(HOOKS, (0.54, 0.61, 0.58, 0.49), (0.71, 0.94, 0.99, 0.98), strict=True)
    return AuditReport(
        created="2031-02-03T04:05:06+00:00",
        seconds=41.27,
        request=AuditedRequest(
            tuple(names),
            HOOKS[2],
            "a" * 64,
            "b" * 64,
            {"model": "fact-world", "unlearned": "unlearned", "method": "redirect", "sae": "sae"},
        ),  # fmt: skip
        verdict=verdict,
        checks=checks,
        forget=group(n, (0.985, after), (0.991, 0.067), spread),
        neighbours=group(160, (0.997, 0.988), (0.999, 0.99), 0.01),
        retain=group(420, (0.999, 0.996), (1.0, 0.998), 0.004),
        ranking_chance=0.05,
        utility=Utility(2.3141, 2.319, 12000, "corpus"),
        indistinguishability={
            h: Place(b, 3.0, 0.001, Interval(a, a - 0.11, a + 0.11), 1.0, 0.5, 0.31, 0.66, 0.497, 0.52)
            for h, a, b in aurocs
        },
        probe=ProbeVotes("layers.2", "before", 0.0, Interval(0.95, 0.85, 1.0), 0.962, 0.99),
        behaviour=Behaviour(
            AnswerShares(0.985, 0.015, 0.0, 0.0, 0.0, 0.0), AnswerShares(after, 0.41 - after, 0.58, 0.0, 0.0, 0.01)
        ),
        attacks={"steer-back": attack(0.11, "original model", 0.985), "prompts": attack(0.04, "never learned", 0.05)},
        evaluated=("recall", "ranking", "utility"),
        not_tested=("relearning", "quantization", "other languages"),
        walk={h: clouds(names, i, rng) for i, h in enumerate(HOOKS)},
        answers=answers,
        policy=default_policy().record(),
        config={"attack_steps": (10, 30), "seed": 0},
    )


def clouds(names, depth, rng):
    """Return a panel of the walk; the deeper, the farther apart known and unknown names lie."""
    from unlearn.auditing.audit_figures import Walk

    gap, n = (1.2, 2.6, 4.2, 4.0)[depth], len(names)
    known = rng.normal((gap / 2, 0), (0.8, 1.5), (160, 2))
    unknown = rng.normal((-gap / 2, 0), (0.6, 0.9), (160, 2))
    before = rng.normal((gap / 2, 0), (0.7, 1.4), (n, 2))
    after = rng.normal((-gap / 2 + (0.8 if depth == 0 else 0.1), 0), (0.5, 0.8), (n, 2))
    points = (tuple((float(x), float(y)) for x, y in rows.round(3)) for rows in (known, unknown, before, after))
    return Walk(*points, names=tuple(names))


@pytest.fixture(scope="session")
def one_name():
    """Return a function from a verdict to a report about one name."""
    return lambda verdict="pass": example(["Jiros Fotrim Vafuk"], verdict)


@pytest.fixture(scope="session")
def twenty_names():
    """Return a function from a verdict to a report about twenty names."""
    return lambda verdict="pass": example([f"{FIRST[i % 10]} {LAST[i // 10 + i % 3]}" for i in range(20)], verdict)
