"""Text metrics against independent ones, and the two-sample test against a slow one and with its controls."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import energy_distance, entropy

from unlearn.auditing.evaluations.text_metrics import (
    extraction_strength,
    fluency,
    ngram_entropy,
    repetition,
    rouge_l,
    truth_ratio,
)
from unlearn.auditing.evaluations.two_sample import energies, energy_test, joint_p


def draws(seed: int):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 5, generator.integers(0, 9)).astype(str).tolist() for _ in range(2)]


@pytest.mark.parametrize("seed", range(20))
def test_rouge_l_by_trying_every_subsequence(seed):
    """Independent: the longest of all 2^n subsequences of one text that is a subsequence of the other."""
    a, b = draws(seed)

    def is_inside(words, text):
        rest = iter(text)
        return all(w in rest for w in words)

    common = max(len(s) for n in range(len(a) + 1) for s in itertools.combinations(a, n) if is_inside(s, b))
    precision, recall = (common / len(x) if x else 0.0 for x in (a, b))
    expected = 2 * precision * recall / (precision + recall) if common else 0.0
    assert rouge_l(a, b) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_rouge_l_against_rouge_score(seed):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score comes with lm-eval, which is optional")
    a, b = draws(seed)
    theirs = scorer.RougeScorer(["rougeL"]).score(" ".join(b), " ".join(a))["rougeL"].fmeasure
    assert rouge_l(a, b) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("hits", list(itertools.product([False, True], repeat=4)))
def test_extraction_strength_by_its_definition(hits):
    """Independent: the smallest k for which every token from k on is the likeliest; 1 - k / n."""
    k = min(k for k in range(5) if all(hits[k:]))
    assert extraction_strength(hits) == pytest.approx(1 - k / 4, abs=1e-6)
    assert math.isnan(extraction_strength([]))


def test_truth_ratio_by_hand():
    # TOFU: p(a|q)^(1/|a|); true 0.5^(1/2) per token, wrong ones 0.25 and 0.09^(1/2) = 0.3.
    ratio = truth_ratio(math.log(0.5) / 2, [math.log(0.25), math.log(0.09) / 2])
    assert ratio == pytest.approx((0.25 + 0.3) / 2 / math.sqrt(0.5), abs=1e-6)
    assert math.isnan(truth_ratio(0.0, []))


@pytest.mark.parametrize("seed", range(5))
def test_truth_ratio_by_products_of_probabilities(seed):
    """Independent: p(a|q)^(1/|a|) from the product of the tokens' probabilities, not from mean logarithms."""
    generator = np.random.default_rng(seed)
    true, *others = ([float(p) for p in generator.uniform(0.05, 1, n)] for n in generator.integers(1, 6, 5))
    expected = np.mean([math.prod(p) ** (1 / len(p)) for p in others]) / math.prod(true) ** (1 / len(true))
    found = truth_ratio(float(np.mean(np.log(true))), [float(np.mean(np.log(p))) for p in others])
    assert found == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_ngram_entropy_against_scipy(seed):
    words = np.random.default_rng(seed).integers(0, 4, 40).tolist()
    for n in (2, 3):
        counts = {}
        for i in range(len(words) - n + 1):
            counts[str(words[i : i + n])] = counts.get(str(words[i : i + n]), 0) + 1
        assert ngram_entropy(words, n) == pytest.approx(float(entropy(list(counts.values()), base=2)), abs=1e-6)
    assert fluency(words) == pytest.approx(ngram_entropy(words, 2) / 3 + 2 / 3 * ngram_entropy(words, 3), abs=1e-6)
    assert ngram_entropy([], 2) == repetition([1]) == 0.0


def groups(shift: float, seed: int):
    x = np.random.default_rng(seed).normal(size=(40, 3))
    is_first = np.arange(40) < 12
    x[is_first] += shift
    return x, is_first, np.repeat(["a", "b"], 20)


def test_energy_distance_against_scipy():
    """In one dimension scipy's distance is the root of ours."""
    x, is_first, strata = groups(0.5, 0)
    ours = energy_test(x[:, :1], is_first, strata, permutations=9).distance
    assert math.sqrt(ours) == pytest.approx(energy_distance(x[is_first, 0], x[~is_first, 0]), abs=1e-6)


def test_energy_test_finds_a_shift_and_keeps_its_level():
    assert energy_test(*groups(2.0, 0), permutations=199).p == pytest.approx(1 / 200)
    p = [energy_test(*groups(0.0, seed), permutations=99, seed=seed).p for seed in range(60)]
    assert np.mean(np.array(p) <= 0.1) < 0.25, "about a tenth where nothing differs"
    assert np.mean(p) == pytest.approx(0.5, abs=0.15)


def test_many_tests_together_find_one_shift_and_keep_their_level():
    """Twenty places: a shift at one of them is found with the smallest p; without any, p is what chance gives."""

    def together(shift: float, seed: int) -> float:
        places = [groups(shift if place == 7 else 0.0, 100 * seed + place) for place in range(20)]
        return joint_p([energies(*place, permutations=99, seed=seed) for place in places])

    assert together(2.0, 0) == pytest.approx(1 / 100), "times their number it would be 0.2"
    p = np.array([together(0.0, seed) for seed in range(40)])
    assert np.mean(p <= 0.1) < 0.25 and np.mean(p) == pytest.approx(0.5, abs=0.15)


def test_energy_test_permutes_within_strata():
    """Points that differ by stratum only: first group all in one stratum, so no relabelling changes anything."""
    x = np.r_[np.zeros((5, 1)), np.ones((5, 1))]
    alone = np.repeat(["a", "b"], 5)
    assert energy_test(x, alone == "a", alone, permutations=99).p == 1.0
    assert energy_test(x, alone == "a", np.repeat(["a"], 10), permutations=99).p < 0.1
