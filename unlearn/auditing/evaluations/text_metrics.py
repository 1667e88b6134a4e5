"""Standard measures of texts and token scores: pure functions, checked against other implementations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def rouge_l(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Return ROUGE-L F1 of two lists of words: 2 P R / (P + R), with P and R the longest common subsequence's share.

    Source: Lin 2004; the same as `rouge_score` on words given.

    Example:
        >>> round(rouge_l("the cat sat".split(), "the cat sat down".split()), 4)
        0.8571
    """
    if not prediction or not reference:
        return 0.0
    row = [0] * (len(reference) + 1)
    for word in prediction:
        previous = 0
        for i, other in enumerate(reference, start=1):
            kept = row[i]
            row[i] = previous + 1 if word == other else max(row[i], row[i - 1])
            previous = kept
    common = row[-1]
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def extraction_strength(greedy: Sequence[bool]) -> float:
    """Return 1 - k / n: the share of an answer of n tokens that greedy decoding completes once it was given k of them.

    `greedy` tells for every token whether it is the likeliest one behind the true tokens before it, so k is one
    behind the last token that is not. Source: Carlini et al. 2021 in the form of open-unlearning.

    Example:
        >>> extraction_strength([False, True, True, True]), extraction_strength([True]), extraction_strength([False])
        (0.75, 1.0, 0.0)
    """
    misses = [i for i, hit in enumerate(greedy) if not hit]
    return 1.0 - (misses[-1] + 1 if misses else 0) / len(greedy) if len(greedy) else float("nan")


def truth_ratio(true_per_token: float, other_per_token: Sequence[float]) -> float:
    """Return the mean over wrong answers of p(wrong)^(1/n), divided by p(true)^(1/n); from 1 on truth is not preferred.

    The arguments are mean log-probabilities per token. Source: TOFU (Maini et al. 2024), with other entities' answers
    as the perturbed ones and the true answer itself in the place of its paraphrase.

    Example:
        >>> round(truth_ratio(math.log(0.5), [math.log(0.1), math.log(0.3)]), 6)
        0.4
    """
    return float(np.exp(other_per_token).mean() / np.exp(true_per_token)) if len(other_per_token) else float("nan")


def ngram_entropy(tokens: Sequence[object], n: int) -> float:
    """Return the entropy in bits of the n-grams of a text; 0 for one n-gram over and over.

    Example:
        >>> ngram_entropy("a b a b a".split(), 2), ngram_entropy("a a a a".split(), 2)
        (1.0, 0.0)
    """
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total = sum(grams.values())
    return -sum(c / total * math.log2(c / total) for c in grams.values()) + 0.0 if total else 0.0


def fluency(tokens: Sequence[object]) -> float:
    """Return (2/3 H_2 + 4/3 H_3) / 2, a weighted mean of 2- and 3-gram entropies in bits. Source: Meng et al. 2022."""
    return (2 / 3 * ngram_entropy(tokens, 2) + 4 / 3 * ngram_entropy(tokens, 3)) / 2


def repetition(tokens: Sequence[object], n: int = 2) -> float:
    """Return the share of n-grams that occurred before in the same text.

    Example:
        >>> repetition("a b a b a".split())
        0.5
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
