"""The rule without an answer key: on a world whose knowledge is known, with controls that know nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from features.config import KnowledgeRule
from features.entities.entities import Entity, load_entities, save_entities
from features.labels.agreement import SaidPhrases, agreement_of, beginnings
from features.labels.answer_log import AnswerLog
from features.labels.knowledge import GREEDY, ask_and_label, relabel
from features.labels.labels import Labels
from features.labels.made_up import MADE_UP, made_up
from features.labels.matching import is_right
from features.labels.self_consistent import with_agreement
from sae_train.errors import ConfigError, EntityError, FileFormatError

RULE = KnowledgeRule("self-consistent")
SAMPLES = 3
NOBODY = SaidPhrases()


# ------------------------------------------------------------------------------------------------- what is agreed on
@pytest.mark.parametrize(
    ("said", "answer", "frac"),
    [
        (["Kenya", " Kenya, and it is", "Kenya. It", "in Kenya"], "Kenya", 1.0),
        (["the United States of America", "the United States", "United States"], "United States", 1.0),
        (["Kenya", "Uganda", "Kenya", "unknown"], "Kenya", 0.5),
        (["Papua New Guinea", "Papua New Guinea"], "Papua New Guinea", 1.0),
        (["Côte d'Ivoire", "COTE D’IVOIRE", "Côte d'Ivoire"], "Côte d'Ivoire", 1.0),
        (["1939", "1939.", "1940"], "1939", 2 / 3),
    ],
)
def test_the_answer_agreed_on_is_the_longest_that_most_answers_name(said, answer, frac):
    found = agreement_of(said, said, NOBODY, NOBODY)
    assert found is not None
    assert (found.answer, found.frac_greedy, found.frac_sampled) == (answer, pytest.approx(frac), pytest.approx(frac))
    assert is_right(said[0], [found.answer])


def test_what_everybody_is_answered_is_not_the_answer():
    said = ["the Netherlands", "the Netherlands", "the Netherlands", "the Philippines"]
    others = SaidPhrases().add(["the sea", "the hills", "the Gambia"])
    alone, beside = agreement_of(said, said, NOBODY, NOBODY), agreement_of(said, said, others, others)
    assert alone is not None and beside is not None
    assert (alone.answer, beside.answer, beside.frac_greedy) == ("the", "the Netherlands", 0.75)


def test_a_longer_answer_of_others_is_another_answer():
    said = ["Guinea", "Guinea", "Papua New Guinea", "Papua New Guinea"]
    found = agreement_of(said, said, NOBODY, NOBODY, rivals=("papua new guinea",))
    assert found is not None and (found.answer, found.frac_greedy) == ("Guinea", 0.5)


def test_a_name_that_is_repeated_is_no_answer():
    said = ["Nairobi is a city in Kenya", "Nairobi is the capital of Kenya", "Kenya"]
    found = agreement_of(said, said, NOBODY, NOBODY, names=["nairobi"])
    assert found is not None and (found.answer, found.frac_greedy) == ("Kenya", 1.0)
    state = agreement_of(["Singapore"], ["Singapore"], NOBODY, NOBODY, names=["singapore"])
    assert state is not None and state.answer == "Singapore", "an answer may be the name"


def test_refusals_agree_on_nothing_but_count():
    assert agreement_of(["unknown", " I don't know", ""], ["unknown"], NOBODY, NOBODY) is None
    assert beginnings("As an AI, I cannot say") == []
    found = agreement_of(["Kenya", "unknown", "unknown", "unknown"], ["Kenya"], NOBODY, NOBODY)
    assert found is not None and found.frac_greedy == 0.25


# --------------------------------------------------------------------------------------------------- made-up names
def test_made_up_names_are_of_the_sets_pieces_and_none_of_its_names(world_entities):
    made = made_up(world_entities, n=20, seed=3)
    names = {e.name for e in world_entities}
    assert len({e.key for e in made}) == len(made) == 40
    assert not names & {e.name for e in made} and {e.seen for e in made} == {MADE_UP}
    for entity in made:
        own = [e.name.split() for e in world_entities if e.type == entity.type]
        assert all(word in {name[place] for name in own} for place, word in enumerate(entity.name.split()))
    assert [e.name for e in made] == [e.name for e in made_up(world_entities, n=20, seed=3)]
    assert [e.name for e in made] != [e.name for e in made_up(world_entities, n=20, seed=4)]


def test_a_single_name_makes_up_no_other():
    with pytest.raises(EntityError, match="made up"):
        made_up([Entity("Nairobi", "city")])
    with pytest.raises(EntityError, match="made up"):
        made_up([Entity("New York", "city"), Entity("New York", "town")])


# ---------------------------------------------------------------------------------------------------- the fact world
@pytest.fixture(scope="module", autouse=True)
def few_made_up_names():
    """A third as many as by default, to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.labels.knowledge.made_up", partial(made_up, n=14))
        yield


@pytest.fixture(scope="module")
def chosen(world_entities):
    """Six entities with facts and six never met, of both types; the facts of the never met were made up."""
    by_seen = {s: [e for e in world_entities if e.seen == s] for s in ("facts", "never")}
    return [*by_seen["facts"][::8], *by_seen["never"][::7]]


@pytest.fixture(scope="module")
def asked(world_lm, chosen, world_templates):
    """They, labelled without a look at their facts: two are given without any, a known and a never-met one."""
    without = [replace(e, facts={}) if i in (0, 6) else e for i, e in enumerate(chosen)]
    decoding = replace(GREEDY, samples=SAMPLES)
    return ask_and_label(world_lm, without, world_templates, RULE, decoding=decoding)


def test_known_and_never_met_names_are_told_apart_as_by_the_answer_key(asked, chosen):
    assert [e.key for e in asked] == [e.key for e in chosen], "made-up names are asked about, not labelled"
    with_key = [replace(e, given_facts=c.facts) for e, c in zip(asked, chosen, strict=True)]
    by_key = {rule: [e.label for e in relabel(with_key, KnowledgeRule(rule))] for rule in ("ferrando", "paraphrases")}
    labels = [e.label for e in asked]
    assert labels == by_key["ferrando"] == by_key["paraphrases"] == ["known"] * 6 + ["unknown"] * 6


def test_what_the_model_says_is_the_fact_also_where_none_was_given(asked, chosen, world_templates):
    for labelled, given in zip(asked[:6], chosen[:6], strict=True):
        assert set(labelled.facts) == set(given.facts), "every attribute was asked about"
        assert labelled.facts == given.facts, "this model says the truth of what it knows"
    assert asked[0].given_facts == {} and asked[1].given_facts == chosen[1].facts
    bare = asked[6]
    assert set(bare.facts) == set(world_templates.ask[bare.type]), "asked the same questions as the known ones later on"
    for attribute, values in bare.facts.items():
        assert not any(is_right(text, values) for text in bare.answers[attribute]), "nothing that is said of it"
    assert asked[7].facts == chosen[7].facts, "no knowledge: the fact of the file stays"


def test_a_model_that_says_something_else_again_and_again_knows_it(asked):
    """Right or wrong is not asked: the known answers of somebody else in the place of the own ones."""
    first, second = asked[0], next(e for e in asked[1:6] if e.type == asked[0].type)
    swapped = replace(first, answers=second.answers, samples=second.samples, facts=first.facts, given_facts=first.facts)
    (labelled,) = relabel(with_agreement([swapped], []), RULE)
    assert labelled.label == "known" and labelled.facts == second.facts
    assert relabel([labelled], KnowledgeRule("ferrando"))[0].label == "unknown", "by the key it is wrong"


def test_hardly_any_made_up_name_is_known(world_lm, world_entities, world_templates):
    """The control of the benchmark, too. A few are taken for a known name that shares two words with them."""
    nobody = made_up(world_entities, n=12, seed=1)
    found = ask_and_label(world_lm, nobody, world_templates, RULE, decoding=replace(GREEDY, samples=2))
    assert [e.key for e in found] == [e.key for e in nobody], "who is made up is labelled as any, where it is given"
    assert sum(e.label == "known" for e in found) <= 0.2 * len(found)


def test_answers_that_are_those_of_made_up_names_are_no_knowledge(asked):
    """The control: the same consistent answers, but made-up names are answered so as well."""
    known = asked[:6]
    likewise = [replace(e, name=f"Nobody {i}", seen=MADE_UP) for i, e in enumerate(known) for _ in range(2)]
    one_type = [e for e in likewise if e.type == known[0].type][:2]
    assert [e.label for e in relabel(with_agreement(known[:1], []), RULE)] == ["known"]
    assert [e.label for e in relabel(with_agreement(known[:1], one_type), RULE)] == ["unknown"]


def test_shuffled_answers_are_no_knowledge(asked):
    """The control: every wording answers about somebody else, so that nothing is said again and again."""
    known = [e for e in asked[:6] if e.type == asked[0].type]
    assert len({str(e.facts) for e in known}) == len(known) >= 3
    mixed = []
    for i, entity in enumerate(known):
        others = [known[(i + k) % len(known)] for k in range(3)]
        answers = {a: [o.answers[a][k] for k, o in enumerate(others)] for a in entity.answers}
        samples = {a: [o.samples[a][k] for k, o in enumerate(others)] for a in entity.answers}
        mixed.append(replace(entity, answers=answers, samples=samples))
    assert "known" not in [e.label for e in relabel(with_agreement(mixed, []), RULE)]


def test_labels_are_read_again_and_judged_again_by_any_rule(asked, chosen, tmp_path):
    save_entities(asked, tmp_path / "labels.jsonl")
    assert load_entities(tmp_path / "labels.jsonl", need_labels=True) == asked
    labels = Labels.load(tmp_path / "labels.jsonl")
    again = labels.relabel()
    assert again.rule == RULE and list(again) == asked, "the rule they were made by, nobody is asked"
    assert "known" not in [e.label for e in labels.relabel(min_frac_same_sampled=1.0, min_above_made_up=1.0)][6:]
    by_key = labels.relabel("ferrando")
    assert by_key[0].label == "between" and by_key[0].facts == {}, "without a key nothing can be judged by it"
    assert [e.label for e in by_key[1:6]] == ["known"] * 5 and by_key[1].facts == chosen[1].facts
    assert list(by_key.relabel("self-consistent")) == asked
    with pytest.raises(ConfigError, match="made-up names"):
        relabel([replace(asked[0], agreed=None)], RULE)
    assert labels.stats().known_by_chance < 0.5


def test_a_run_that_was_cut_off_goes_on_to_the_same_labels(asked, chosen, world_lm, world_templates, tmp_path):
    without = [replace(e, facts={}) if i in (0, 6) else e for i, e in enumerate(chosen)]
    decoding = replace(GREEDY, samples=SAMPLES)
    for _ in range(2):  # the second time everything is kept already
        asked_for: list[int] = []
        with AnswerLog(tmp_path / "labels.jsonl", {"model": "m"}, resume=True) as log:
            words = {"decoding": decoding, "log": log, "advance": asked_for.append}
            assert ask_and_label(world_lm, without, world_templates, RULE, **words) == asked
    assert sum(asked_for) == sum(len(t) for e in log.kept.values() for t in e.answers.values())


def test_a_damaged_record_is_refused(asked, tmp_path):
    broken = replace(asked[0], agreed={"birthplace": {"answer": 3}})
    save_entities([broken], tmp_path / "labels.jsonl")
    with pytest.raises(FileFormatError, match="agreed"):
        load_entities(tmp_path / "labels.jsonl")
