"""What --stats counts, on a small set whose counts can be written down."""

from __future__ import annotations

import math

from features.config import KnowledgeRule
from features.entities.entities import Entity
from features.labels.label_stats import answer_examples, known_by_chance, label_stats


def city(name: str, label: str, said: list[str], country: str = "Kenya", **more) -> Entity:
    return Entity(name, "city", {"country": [country]}, label=label, answers={"country": said}, **more)


SET = [
    city("A", "known", ["Kenya", "Kenya"], popularity=40.0, name_tokens=1),
    city("B", "known", ["Peru", "Peru"], "Peru", popularity=30.0, name_tokens=1),
    city("C", "between", ["Chad", "I do not know"], "Chad", popularity=20.0, name_tokens=2),
    city("D E F", "unknown", ["Peru", ""], "Togo", popularity=10.0, name_tokens=9),
    Entity("P", "person", {}, label="between", name_tokens=1),
]
RULE = KnowledgeRule()


def rows(stats, by):
    return [tuple(r[1:]) for r in stats.rows if r.by == by]


def test_counts_by_type_name_length_and_popularity():
    stats = label_stats(SET, RULE)
    assert rows(stats, "all") == [("", 5, 2, 1, 2)]
    assert rows(stats, "type") == [("city", 4, 2, 1, 1), ("person", 1, 0, 0, 1)]
    lengths = [("1 token", 3, 2, 0, 1), ("2 tokens", 1, 0, 0, 1), ("6 or more tokens", 1, 0, 1, 0)]
    assert rows(stats, "name length") == lengths
    quartiles = [("10 to 10", 1, 0, 1, 0), ("20 to 20", 1, 0, 0, 1), ("30 to 30", 1, 1, 0, 0), ("40 to 40", 1, 1, 0, 0)]
    assert rows(stats, "popularity") == quartiles
    assert stats.verdicts["known"] == {"right": 4, "refusal": 0, "wrong": 0, "empty": 0}
    assert stats.verdicts["between"] == {"right": 1, "refusal": 1, "wrong": 0, "empty": 0}
    assert stats.verdicts["unknown"] == {"right": 0, "refusal": 0, "wrong": 1, "empty": 1}


def test_without_tokens_words_are_counted_and_without_popularity_nothing():
    old = [Entity("One Two", "city", {"country": ["Peru"]}, label="known", answers={"country": ["Peru"]})]
    stats = label_stats(old, RULE)
    assert rows(stats, "name length") == [("2 words", 1, 1, 0, 0)]
    assert rows(stats, "popularity") == []
    assert math.isnan(stats.known_by_chance), "nobody to change places with"


def test_who_always_says_the_same_is_known_by_chance():
    same = [city(f"C{i}", "known", ["Peru"], "Peru") for i in range(10)]
    assert known_by_chance(same, RULE) == 1.0
    different = [city(f"C{i}", "known", [f"Land {i}"], f"Land {i}") for i in range(10)]
    assert known_by_chance(different, RULE) == 0.0


def test_examples_show_every_answer_and_what_it_is_worth():
    shown = {r.entity: r for r in answer_examples(SET, per_label=2)}
    assert set(shown) == {"A", "B", "C", "D E F"}
    assert shown["A"].answers == "Kenya | Kenya"
    assert shown["C"].answers == "Chad | [refusal] I do not know"
    assert shown["D E F"].answers == "[wrong] Peru | [empty] "
    assert shown["A"].samples_right == ""
    sampled = city("S", "known", ["Kenya"], samples={"country": [["Kenya", "Peru", "Kenya"]]})
    assert answer_examples([sampled])[0].samples_right == "2/3"
    assert answer_examples(SET * 3, per_label=1, seed=1) == answer_examples(SET * 3, per_label=1, seed=1)
