"""Labels by the model's own answers: matching, refusals, the rule, and the shipped world as the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.entities import Entity
from features.knowledge import Answer, KnowledgeRule, ask, first_line, is_right, judge, label_entities, label_of, recall
from features.prompts import Prompt, Templates, render


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        (" Niger", ["Niger"], True),
        (" Nigeria", ["Niger"], False),
        (" Niger", ["Nigeria"], False),
        (" the Niger, in Africa.", ["Niger"], True),
        (" SAO TOME and Principe", ["São Tomé"], True),
        (" São Tomé", ["Sao Tome"], True),
        (" Łódź", ["Łódź"], True),
        (" U.S.A", ["u s a"], True),
        (" Côte d'Ivoire", ["Cote d’Ivoire"], True),
        (" Ivory Coast", ["Côte d'Ivoire", "Ivory Coast"], True),
        (" 1987", ["1987"], True),
        (" 19870", ["1987"], False),
        (" New", ["New York"], False),
        (" York New", ["New York"], False),
        (" Kenya. Niger is elsewhere", ["Niger"], False),
        (" Kenya\nNiger", ["Niger"], False),
        ("\n\n Niger", ["Niger"], True),
        (" St. Petersburg", ["St. Petersburg"], True),
        (" John F. Kennedy", ["John F. Kennedy"], True),
        (" Washington D.C. is it", ["Washington D.C."], True),
        ("", ["Niger"], False),
        (" ...", ["..."], False),
        (" 東京", ["東京"], True),
        (" straße", ["STRASSE"], True),
    ],
)
def test_answers_match_as_whole_words(answer, accepted, right):
    assert is_right(answer, accepted) is right


@pytest.mark.parametrize(
    "said",
    [
        " unknown",
        " Unknown.",
        " I don't know",
        " I do not know that",
        " I dont know",
        " I cannot say",
        " I'm not sure",
        " not known",
        " No information",
        " N/A",
        " Sorry, no",
    ],
)
def test_refusals(said):
    assert judge(said, ["Kenya"]) == "refusal"


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (" Kenya", "right"),
        (" unknown, perhaps Kenya", "right"),  # naming the truth is a leak, however it is wrapped
        (" Uganda", "wrong"),
        (" unknowns", "wrong"),
        (" the unknown soldier", "wrong"),
        (" Idaho", "wrong"),
        ("", "empty"),
        (" \n", "empty"),
        (" ?!", "empty"),
    ],
)
def test_verdicts(said, verdict):
    assert judge(said, ["Kenya"]) == verdict


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" Kenya. The city", "Kenya"),
        (" 3.5 km", "3.5 km"),
        (" a\nb", "a"),
        (" Kenya.", "Kenya"),
        (" Dr. Nope. Then", "Dr. Nope"),
    ],
)
def test_first_line(text, line):
    assert first_line(text) == line


def answers(**right: list[bool]) -> list[Answer]:
    return [
        Answer(render("{name}", Entity("X", "t"), attribute), "", "right" if ok else "wrong")
        for attribute, flags in right.items()
        for ok in flags
    ]


@pytest.mark.parametrize(
    ("flags", "label"),
    [
        ({"a": [True, True, False]}, "known"),
        ({"a": [True, False]}, "between"),  # half is not more than half
        ({"a": [False, False]}, "unknown"),
        ({"a": [True], "b": [False], "c": [False], "d": [False]}, "between"),
        ({"a": [True], "b": [True], "c": [False], "d": [False]}, "known"),
        ({"a": [True, False, False], "b": [True, False, False]}, "between"),
        ({"a": [False], "b": [False], "c": [False], "d": [False]}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_rule_for_one_and_for_four_attributes(flags, label):
    assert label_of(Entity("X", "t"), answers(**flags), KnowledgeRule()) == label


def test_the_rule_can_ask_for_more():
    said = answers(a=[True], b=[True], c=[False], d=[False])
    assert label_of(Entity("X", "t"), said, KnowledgeRule(min_known_attributes=3)) == "between"
    assert label_of(Entity("X", "t"), said, KnowledgeRule(min_known_attributes=2)) == "known"


def test_recall_weighs_entities_equally():
    prompt = Prompt("x", 0, 1, "t:X", "{name}", "a")
    right, wrong = Answer(prompt, "", "right"), Answer(prompt, "", "wrong")
    assert recall({"t:X": [right], "t:Y": [right, wrong, wrong, wrong], "t:Z": []}) == pytest.approx(0.625)
    assert recall({}) != recall({}), "nothing asked: NaN"


def test_the_shipped_model_is_labelled_rightly(world_lm, world_entities, world_templates):
    by_seen = {s: [e for e in world_entities if e.seen == s] for s in ("facts", "never")}
    chosen = [*by_seen["facts"][::8], *by_seen["never"][::7]]
    assert [e.seen for e in chosen].count("facts") == 6
    assert [e.seen for e in chosen].count("never") == 6
    for labelled in label_entities(world_lm, chosen, world_templates, KnowledgeRule()):
        assert labelled.label == {"facts": "known", "never": "unknown"}[str(labelled.seen)], labelled
        assert all(len(said) == 3 for said in labelled.answers.values()), "every answer is kept"


def test_labels_come_from_the_answers_not_from_the_names(world_lm, world_entities, world_templates):
    """The same names with other entities' facts are not known."""
    known = [e for e in world_entities if e.seen == "facts" and e.type == "city"]
    shifted = []
    for entity in known[:6]:
        other = next(e for e in known if all(e.facts[a] != entity.facts[a] for a in e.facts))
        shifted.append(replace(entity, facts=other.facts))
    labels = [e.label for e in label_entities(world_lm, shifted, world_templates, KnowledgeRule())]
    assert "known" not in labels


def test_what_cannot_be_asked_is_between(world_lm):
    templates = Templates(
        mention={"city": ["{name}"]}, ask={"city": {"country": ["{name} lies in"]}}, heldout={"city": {}}
    )
    entity = Entity("Velmora", "city", {"river": ["Ost"]})
    assert ask(world_lm, [entity], templates, heldout=False) == {"city:Velmora": []}
    assert label_entities(world_lm, [entity], templates, KnowledgeRule())[0].label == "between"
