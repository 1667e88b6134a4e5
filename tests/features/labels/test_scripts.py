"""Answers, labels and logs in scripts of all kinds, and in what editors and models put between the letters."""

from __future__ import annotations

import json

import pytest

from features.config import KnowledgeRule
from features.entities.entities import Entity, find_entity, load_entities
from features.entities.templates import Templates, load_templates
from features.labels.answer_log import AnswerLog
from features.labels.knowledge import ask, ask_and_label, first_line, is_right, judge, recall, relabel
from features.labels.matching import Rivals
from sae_train.lm.answer_end import first_line_is_whole
from sae_train.lm.answering import Written

MARK = "\ufeff"


def test_the_truth_in_a_sentence_is_right(script):
    for said in script.names_it:
        assert judge(f" {said}", [script.name]) == "right", said
    for said in script.another:
        assert judge(f" {said}", [script.name]) != "right", said


def test_labels_are_made_of_it(script):
    asked = Entity("Osk", "city", {"capital": [script.name]}, answers={"capital": [*script.names_it]})
    wrong = Entity("Lim", "city", {"capital": [script.name]}, answers={"capital": [*script.another]})
    assert [e.label for e in relabel([asked, wrong], KnowledgeRule())] == ["known", "unknown"]


def test_a_model_that_says_the_truth_in_a_sentence_knows(script, world_lm, monkeypatch):
    templates = Templates(
        {"city": ["{name}"]}, {"city": {"capital": ["{name} has"]}}, {"city": {"capital": ["{name}:"]}}
    )
    entity = Entity("Osk", "city", {"capital": [script.name]})
    said = [Written(f" {script.names_it[0]}")]
    monkeypatch.setattr("features.labels.knowledge.write_answers", lambda *_: said)
    assert recall(ask(world_lm, [entity], templates, heldout=True)) == 1.0
    assert ask_and_label(world_lm, [entity], templates, KnowledgeRule())[0].label == "known"


@pytest.mark.parametrize(
    ("accepted", "others", "said", "verdict"),
    [
        ("印度", ["印度尼西亚"], "印度尼西亚。", "wrong"),
        ("印度", ["印度尼西亚"], "印度，不是印度尼西亚。", "right"),
        ("京都", ["東京", "京都"], "東京都です。", "wrong"),
        ("東京", ["東京", "京都"], "東京都です。", "right"),
        ("京都", ["東京", "京都"], "京都です。", "right"),
        ("서울", ["서울시립대"], "서울시립대", "wrong"),
        ("Guinea", ["Papua New Guinea"], "Papua New Guinea", "wrong"),
    ],
)
def test_a_longer_name_counts_as_itself(accepted, others, said, verdict):
    assert judge(said, [accepted], Rivals([accepted, *others]).of([accepted])) == verdict


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("東京です。京都は", "東京です"),
        ("दिल्ली है। वह", "दिल्ली है"),
        ("लाहौर۔ वह", "लाहौर"),
        (" А. С. Пушкин. Он", "А. С. Пушкин"),
        (" É. Zola. Il", "É. Zola"),
        ("ד. בן גוריון. הוא", "ד. בן גוריון"),
        ("डॉ. अंबेडकर। वे", "डॉ. अंबेडकर"),
        ("Αθήνα. Είναι", "Αθήνα"),
        ("a\u2028b\x85c\nd", "a\u2028b\x85c"),
    ],
)
def test_where_an_answer_ends(text, line):
    assert first_line(text) == line
    for cut in range(len(text)):
        if first_line_is_whole(text[:cut]):
            assert first_line(text[:cut]) == line


def test_a_full_stop_in_the_first_sentence_hides_what_follows():
    assert not is_right("京都。東京は違う", ["東京"])


@pytest.mark.parametrize("between", "\u2028 \u2029 \x85 \x0c \x1c".split(" "))
def test_a_log_with_separators_in_it_is_resumed(tmp_path, between):
    entity = Entity("Osk\u2028Lim", "city", {"river": [f"O{between}st"]}, answers={"river": [f"a{between}b"]})
    for kept in ([], [entity.key]):
        with AnswerLog(tmp_path / "labels.jsonl", {"model": f"m{between}"}, resume=True) as log:
            assert list(log.kept) == kept
            log.add([entity] if not kept else [])
    assert log.kept[entity.key] == entity
    log.finish([entity])
    assert load_entities(tmp_path / "labels.jsonl") == [entity]


def test_a_byte_order_mark_is_no_character(tmp_path):
    row = {"name": "Osk", "type": "city", "facts": {"river": ["Ost"]}, "label": "known"}
    (tmp_path / "a.jsonl").write_text(MARK + json.dumps(row) + "\r\n", encoding="utf-8", newline="")
    (tmp_path / "a.csv").write_text(MARK + '"name",type,river\r\nOsk,city,Ost\r\n', encoding="utf-8", newline="")
    form = {"city": {"river": {"ask": ["{name} lies on"]}}}
    (tmp_path / "t.json").write_text(MARK + json.dumps(form), encoding="utf-8")
    assert load_entities(tmp_path / "a.jsonl", need_labels=True)[0].facts == {"river": ["Ost"]}
    assert load_entities(tmp_path / "a.csv") == [Entity("Osk", "city", {"river": ["Ost"]})]
    assert load_templates(tmp_path / "t.json").ask == {"city": {"river": ["{name} lies on"]}}


def test_a_name_is_found_however_its_accents_are_encoded():
    composed, decomposed = Entity("São Orla", "city"), Entity("Sa\u0303o Orla", "city")
    assert find_entity([composed], decomposed.name) is find_entity([composed], decomposed.key) is composed
    assert find_entity([composed, decomposed], decomposed.name) is decomposed
