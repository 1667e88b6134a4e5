"""Templates and prompts: where the name stands, for any name; the last name token in the middle of a prompt."""

from __future__ import annotations

import json

import pytest
import torch

from features.entities.collect import name_activations
from features.entities.entities import Entity
from features.entities.name_tokens import encode
from features.entities.prompts import (
    by_type,
    check_types,
    contexts,
    entity_documents,
    mentions,
    questions,
    render,
)
from features.entities.templates import Templates, load_templates, save_templates
from sae_train.errors import EntityError, FileFormatError, MissingFileError
from sae_train.lm.hooks import capture

HOSTILE = ("C++ (language)", "{name}", "{x}{", r"\1 \g<0> $&", ".*[a", "Ünïcode 東京 🙂", "a%sb%(c)d", "Q: A:", "it's")
GOOD = {
    "city": {"mention": ["The city of {name}"], "country": {"ask": ["{name} lies in"], "heldout": ["Where is {name}?"]}}
}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "{}",
        '"text"',
        {"city": ["{name}"]},
        {"city": {"mention": ["The city"]}},
        {"city": {"mention": ["{name} and {name}"]}},
        {"city": {"mention": "The city of {name}"}},
        {"city": {"mention": [3]}},
        {"city": {"country": ["{name} lies in"]}},
        {"city": {"country": {"heldout": ["{name} lies in"]}}},
        {"city": {"mention": [], "country": {"ask": ["{name} lies in"]}}},
        {"city": {"country": {"ask": []}}},
        {"city": {"country": {"ask": ["lies in"]}}},
        {"city": {"country": {"ask": ["{Name} lies in"]}}},
        {"city": {"country": {"ask": ["{name} lies in"], "heldout": ["lies in"]}}},
        {"city": {"country": {"ask": ["{name} lies in"], "heldout": "{name}"}}},
    ],
)
def test_bad_templates_are_refused(tmp_path, bad):
    with pytest.raises(FileFormatError) as caught:
        load_templates(write(tmp_path / "t.json", bad))
    assert caught.value.got is not None
    assert caught.value.exit_code == 2


def test_a_held_out_wording_may_not_be_a_training_wording(tmp_path):
    same = {"city": {"country": {"ask": ["{name} lies in"], "heldout": ["{name} lies in"]}}}
    with pytest.raises(FileFormatError) as caught:
        load_templates(write(tmp_path / "t.json", same))
    assert "{name} lies in" in str(caught.value.got)


def test_good_templates(tmp_path):
    found = load_templates(write(tmp_path / "t.json", GOOD))
    assert found.attributes("city") == ["country"]
    assert found.attributes("person") == []
    assert found.heldout == {"city": {"country": ["Where is {name}?"]}}
    with pytest.raises(MissingFileError):
        load_templates(tmp_path / "none.json")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "template", ["{name}", "{name} lies in", "The city of {name} (a {place}) \\1 lies in", "x {name}"]
)
def test_offsets_point_at_the_name_whatever_it_holds(name, template):
    prompt = render(template, Entity(name, "city"), "country")
    assert prompt.text[prompt.name_start : prompt.name_end] == name
    assert prompt.text == template[: prompt.name_start] + name + template[prompt.name_start + len("{name}") :]
    assert prompt.until_name.endswith(name)
    assert prompt.entity == f"city:{name}"


@pytest.mark.parametrize("name", HOSTILE)
def test_the_last_name_token_holds_the_last_letter_of_the_name(world_lm, name):
    prompts = [
        render(t, Entity(name, "city")) for t in ("{name}", "About {name}, we read", "({name})", "{name}s lie in")
    ]
    for prompt, read in zip(prompts, encode(world_lm, prompts), strict=True):
        offsets = world_lm.tokenizer(
            prompt.text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )["offset_mapping"]
        start, end = offsets[read.name_at - (len(read.ids) - len(offsets))]
        assert start < prompt.name_end <= end


def test_activations_are_those_at_the_name_not_at_the_end(world_lm):
    prompts = [render("{name} works as a", Entity(n, "person")) for n in ("Jiros Fotrim Vafuk", "Levast Kibon")]
    found = name_activations(world_lm, prompts, ["layers.1", "layers.3"], batch_size=1)
    for row, read in enumerate(encode(world_lm, prompts)):
        tokens, at = read.ids, read.name_at
        assert at < len(tokens) - 1
        whole = capture(world_lm, torch.tensor([tokens]), None, ["layers.1", "layers.3"])
        for name, acts in whole.items():
            torch.testing.assert_close(found[name][row], acts[0, at], rtol=1e-4, atol=1e-4)
            assert (found[name][row] - acts[0, -1]).norm() > 0.1 * acts[0, at].norm(), (
                "the test could not tell them apart"
            )


def test_no_prompts_no_rows(world_lm):
    assert name_activations(world_lm, [], ["layers.1"])["layers.1"].shape == (0, world_lm.d_model)


TEMPLATES = Templates(
    mention={"city": ["{name}", "The city of {name}"]},
    ask={"city": {"country": ["{name} lies in", "In {name} flows"], "river": ["{name} lies on"]}},
    heldout={"city": {"country": ["{name} belongs to"], "river": []}},
)


def test_questions_ask_only_what_the_entity_has_a_fact_about():
    entity = Entity("Velmora", "city", {"country": ["Ardane"]})
    assert [p.text for p in questions(entity, TEMPLATES, heldout=False)] == ["Velmora lies in", "In Velmora flows"]
    assert [p.text for p in questions(entity, TEMPLATES, heldout=True)] == ["Velmora belongs to"]
    assert list(questions(Entity("X", "person", {"country": ["A"]}), TEMPLATES, heldout=False)) == []
    assert all(p.attribute == "country" for p in questions(entity, TEMPLATES, heldout=False))
    assert [p.attribute for p in mentions(entity, TEMPLATES)] == [None, None]


def test_contexts_share_a_beginning_only_once():
    entity = Entity("Velmora", "city", {"country": ["Ardane"], "river": ["Ost"]})
    found = contexts(entity, TEMPLATES)
    assert [p.until_name for p in found] == ["Velmora", "The city of Velmora", "In Velmora"]
    assert [p.until_name for p in contexts(entity, TEMPLATES, heldout=True)] == ["Velmora"]


def test_entity_documents_end_at_the_name_and_depend_on_the_seed_alone():
    entities = [Entity(n, "city", {"country": ["A"]}) for n in ("Velmora", "Tashu", "Kestrin")]
    first, again, other = (entity_documents(entities, TEMPLATES, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert sorted(d.text for d in first) == sorted(d.text for d in other)
    assert all(d.keep_char_end == len(d.text) for d in first)


def test_types_without_templates_are_named():
    with pytest.raises(EntityError) as caught:
        check_types([Entity("Osk", "citi")], TEMPLATES)
    assert caught.value.expected == "city"
    assert "Osk (citi)" in str(caught.value.got)


def test_by_type_keeps_the_order():
    entities = [Entity("a", "x"), Entity("b", "y"), Entity("c", "x")]
    assert {k: [e.name for e in v] for k, v in by_type(entities).items()} == {"x": ["a", "c"], "y": ["b"]}


def test_no_shipped_held_out_wording_is_a_training_wording():
    from features.factworld import shipped_world

    templates = load_templates(shipped_world() / "templates.json")
    for kind, asked in templates.ask.items():
        training = {*templates.mention[kind], *(t for texts in asked.values() for t in texts)}
        heldout = {t for texts in templates.heldout[kind].values() for t in texts}
        assert heldout
        assert not training & heldout


def test_questions_of_one_entity_take_the_place_of_its_types_and_are_not_mined(tmp_path):
    shared = {"job": {"ask": ["{name} works as"], "heldout": ["The work of {name} is"]}}
    own = {
        "job": {"ask": ["What is {name}, if not {name} the baker?"]},
        "q1": {"ask": [], "heldout": ["Is {name} old?"]},
    }
    both = {"person": {"mention": ["{name}"], **shared}, "person:Osk": own}
    path = write(tmp_path / "t.json", json.dumps(both))
    templates = load_templates(path)
    save_templates(templates, tmp_path / "again.json")
    assert load_templates(tmp_path / "again.json") == templates
    osk, ena = (Entity(name, "person", facts={"job": ["baker"], "q1": ["yes"]}) for name in ("Osk", "Ena"))
    asked = [p.text for p in questions(osk, templates, heldout=False)]
    assert asked == ["What is Osk, if not Osk the baker?"]
    assert [p.text for p in questions(osk, templates, heldout=True)] == ["Is Osk old?"]
    assert [p.text for p in questions(ena, templates, heldout=False)] == ["Ena works as"]
    assert [p.until_name for p in contexts(osk, templates)] == ["Osk"], "those that all people are read in"
    assert [p.until_name for p in contexts(osk, templates, heldout=True)] == ["The work of Osk"]


def test_own_questions_are_read_where_the_type_holds_none_out():
    templates = Templates(
        {"person": ["{name}"]}, {"person": {}}, {"person": {}, "person:Osk": {"q1": ["Is {name} old?"]}}
    )
    osk = Entity("Osk", "person", facts={"q1": ["yes"]})
    assert [p.until_name for p in contexts(osk, templates, heldout=True)] == ["Is Osk"]


def test_a_type_without_an_entry_is_not_one_entity_s(tmp_path):
    with pytest.raises(FileFormatError, match=r"a:b\.job\.ask"):
        load_templates(write(tmp_path / "t.json", '{"a:b": {"job": {"ask": ["{name} and {name}"]}}}'))


def test_an_empty_list_is_named_and_says_what_to_do(tmp_path):
    country = {"country": {"ask": ["{name} lies in"]}}
    with pytest.raises(FileFormatError, match="city.mention is empty") as caught:
        load_templates(write(tmp_path / "t.json", json.dumps({"city": {"mention": [], **country}})))
    assert caught.value.got == "[]" and "left out" in str(caught.value.expected)
    left_out = load_templates(write(tmp_path / "t.json", json.dumps({"city": country})))
    assert left_out.mention == {"city": ["{name}"]} and left_out.heldout == {"city": {"country": []}}


def test_templates_at_hand_without_a_mention_name_the_entity_alone():
    found = [p.text for p in mentions(Entity("Osk", "city"), Templates({"city": []}, {"city": {}}, {"city": {}}))]
    assert found == ["Osk"]
