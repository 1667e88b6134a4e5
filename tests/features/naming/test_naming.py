"""Kinds, other names and unknown names: what a request makes where only a name is given."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from features.entities.entities import Entity, load_entities
from features.entities.name_tokens import name_lengths
from features.entities.templates import NAME, Templates, load_templates
from features.naming.kinds import WORDINGS, choose_kind, kind_scores, kinds_of, shipped_kinds
from features.naming.other_names import ask_for_names, names_in, ranked_names
from features.naming.unknown_names import unknown_names
from sae_train.errors import ConfigError, EntityError


def test_every_shipped_kind_can_be_asked_about():
    kinds = shipped_kinds()
    assert kinds.names == ["person", "place", "organisation", "work"] == list(load_templates(WORDINGS).ask)
    for kind in kinds.names:
        asked, heldout = kinds.templates.ask[kind], kinds.templates.heldout[kind]
        assert len(asked) >= 4
        for attribute in asked:
            assert len(asked[attribute]) >= 4 and len(heldout[attribute]) >= 2, (kind, attribute)
            assert not {*asked[attribute]} & {*heldout[attribute]}
        assert kinds.beginnings(kind)
        for text in kinds.similar[kind]:
            assert text.count(NAME) == 1 and text == text.rstrip()


def test_only_one_kind_is_asked_about():
    kinds = shipped_kinds()
    alone = kinds.only("place")
    assert [*alone.ask] == [*alone.heldout] == [*alone.mention] == ["place"]
    assert alone.ask["place"] == kinds.templates.ask["place"]


def test_what_stands_before_names_of_all_types_calls_for_none():
    templates = Templates(
        {"city": ["The city {name}", "We know {name}"], "film": ["The film {name}", "We know {name}"]},
        {"city": {}, "film": {}},
        {"city": {}, "film": {}},
    )
    kinds = kinds_of(templates)
    assert kinds.similar == {"city": ["The city"], "film": ["The film"]}
    with pytest.raises(EntityError):
        kinds_of(replace(templates, mention={"city": ["{name}"], "film": ["{name}"]}))


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ConfigError) as caught:
        shipped_kinds().checked("places")
    assert caught.value.field == "kind" and str(caught.value.expected).startswith("place")


def test_the_model_says_what_kind_a_name_is(world_lm):
    kinds = kinds_of(load_templates("fact-world"))
    drawn: dict[str, list[str]] = {}
    for entity in load_entities("fact-world"):
        if entity.seen == "facts":
            drawn.setdefault(entity.type, []).append(entity.name)
    assert len(drawn) == 4
    for kind, names in drawn.items():
        assert [choose_kind(world_lm, name, kinds) for name in names[:3]] == [kind] * 3


def test_a_name_of_two_kinds_is_for_the_user_to_say(world_lm):
    """Two kinds with the same beginnings but for one word that says nothing: the scores are alike."""
    templates = Templates(
        {"a": ["We know that {name}"], "b": ["It is said that {name}"]}, {"a": {}, "b": {}}, {"a": {}, "b": {}}
    )
    kinds = kinds_of(templates)
    scores = kind_scores(world_lm, "Jiros Fotrim Vafuk", kinds)
    assert abs(scores["a"] - scores["b"]) < 1.0
    with pytest.raises(ConfigError) as caught:
        choose_kind(world_lm, "Jiros Fotrim Vafuk", kinds)
    assert caught.value.field == "kind" and caught.value.expected == "a, b"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (" Rome.\n\nThe city of light", ["Rome"]),
        (" St. Petersburg, J. R. R. Tolkien. He wrote", ["St. Petersburg", "J. R. R. Tolkien", "He"]),
        (" Leonardo da Vinci (1452) and Marie Curie", ["Leonardo da Vinci", "Marie Curie"]),
        (' "Hamlet", "Macbeth" and others', ["Hamlet", "Macbeth"]),
        (" 1. Berlin 2. Prague", ["Berlin", "Prague"]),
        (" 東京、大阪", ["東京", "大阪"]),
        (" the sea", []),
        ("", []),
    ],
)
def test_names_are_read_from_the_front_of_an_answer(text, names):
    assert names_in(text) == names


def test_names_are_ranked_and_each_comes_once():
    said = [" Rome", " rome", " Rome, Nice", " Paris", " Paris Hilton", " Nice Airport", " Oslo City Hall Square"]
    assert ranked_names(said, "Paris") == ["Rome", "Nice", "Oslo City Hall Square"]
    assert ranked_names([" All roads lead there", " All of them", " Rome is far", " Rome"], "Paris") == ["Rome"]


def test_a_model_names_others_the_same_ones_every_time(world_lm):
    kinds = kinds_of(load_templates("fact-world"))
    target = "Jiros Fotrim Vafuk"
    how = {"n": 10, "samples": 12, "seed": 0}
    found = ask_for_names(world_lm, kinds.similar["person"], target, **how)
    assert 4 <= len(found) <= 10 and len({*map(str.casefold, found)}) == len(found)
    assert target not in found
    assert found == ask_for_names(world_lm, kinds.similar["person"], target, **how)
    assert found != ask_for_names(world_lm, kinds.similar["person"], target, **{**how, "seed": 1})
    words = Counter(word for e in load_entities("fact-world") if e.type == "person" for word in e.name.split())
    assert sum(name.split()[0] in words for name in found) > len(found) / 2


def test_unknown_names_are_pieces_of_real_ones_of_the_same_length(world_lm):
    real = [e for e in load_entities("fact-world") if e.type == "person" and e.seen == "facts"][:20]
    made = unknown_names(world_lm, real, n=20)
    assert len({e.name for e in made}) == 20 and not {e.name for e in made} & {e.name for e in real}
    pieces = [{e.name.split()[place] for e in real} for place in range(3)]
    assert all(word in pieces[place] for e in made for place, word in enumerate(e.name.split()))
    lengths = [name_lengths(world_lm, [e.name for e in some]) for some in (real, made)]
    assert sorted(lengths[0]) == sorted(lengths[1])


def test_a_single_token_is_no_unknown_name(world_lm, monkeypatch):
    """Of Rome and Berlin there are two new names; "Rolin" is a word to this tokenizer."""
    monkeypatch.setattr(
        "features.naming.unknown_names.name_lengths", lambda lm, names: [1 if n == "Rolin" else len(n) for n in names]
    )
    made = unknown_names(world_lm, [Entity("Rome", "city"), Entity("Berlin", "city")], n=4)
    assert [e.name for e in made] == ["Berme"]


def test_names_that_allow_no_other_are_refused(world_lm):
    with pytest.raises(EntityError):
        unknown_names(world_lm, [Entity("Osk", "person")], n=2)
