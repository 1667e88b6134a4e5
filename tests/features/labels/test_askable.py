"""Entities that the templates ask nothing about: all of them refused, some of them named."""

from __future__ import annotations

import logging

import pytest

from features import label_entities
from features.entities.entities import Entity
from features.entities.templates import Templates
from features.labels.askable import check_askable
from sae_train.errors import EntityError

ASK = {"person": {"birthplace": ["{name} was born in"], "instrument": ["{name} plays the"]}, "city": {}}
TEMPLATES = Templates({"person": ["{name}"], "city": ["{name}"]}, ASK, {"person": {}, "city": {}})
RIGHT = Entity("Mira", "person", {"birthplace": ["Osk"], "instrument": ["lute"]})


def _notes(caplog: pytest.LogCaptureFixture, *entities: Entity) -> list[str]:
    with caplog.at_level(logging.WARNING):
        check_askable(entities, TEMPLATES)
    return [record.message for record in caplog.records]


@pytest.mark.parametrize("facts", [{"Birthplace": ["Osk"]}, {"birthplace ": ["Osk"]}, {"river": ["Lim"]}, {}], ids=str)
def test_not_one_question_is_refused_with_both_sides_named(facts, tmp_path):
    entities = [Entity("Mira", "person", facts), Entity("Osk", "city", {"country": ["Ruvia"]})]
    with pytest.raises(EntityError, match="no question") as refused:
        label_entities("no-such-model", entities, templates=TEMPLATES, out=tmp_path / "labels.jsonl")
    assert refused.value.exit_code == 2 and refused.value.field == "templates"
    asked = f"person is asked for birthplace, instrument, and has the facts {', '.join(facts) or 'none'}"
    assert refused.value.got == f"{asked}; city is asked for nothing, and has the facts country"
    assert not list(tmp_path.iterdir())


def test_who_cannot_be_asked_is_named(caplog):
    (said,) = _notes(caplog, RIGHT, Entity("Tisra", "person", {"river": ["Lim"]}))
    assert said.startswith("nothing can be asked about 1 of type 'person' (Tisra)") and "has the facts river" in said


def test_a_fact_in_another_case_is_told_though_others_can_be_asked(caplog):
    (said,) = _notes(caplog, Entity("Mira", "person", {"Birthplace": ["Osk"], "instrument": ["lute"]}))
    assert said == "'birthplace' is asked of no person: the facts are called 'Birthplace'; names match exactly"


def test_nothing_is_said_where_every_one_can_be_asked(caplog):
    assert _notes(caplog, RIGHT, Entity("Tisra", "person", {"instrument": ["drum"]})) == []
