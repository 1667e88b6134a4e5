"""Labels by the model's own answers: matching, refusals, the rules, resuming, and the shipped world as the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from features.config import KnowledgeRule
from features.entities.entities import Entity, entity_line, load_entities, save_entities
from features.entities.prompts import Prompt
from features.entities.templates import Templates
from features.labels.answer_log import AnswerLog
from features.labels.knowledge import (
    GREEDY,
    LONG_ANSWER_TOKENS,
    Answer,
    ask,
    ask_and_label,
    first_line,
    is_right,
    judge,
    recall,
    relabel,
)
from features.labels.matching import Rivals
from features.labels.rules import AttributeRecord, label_of
from sae_train.errors import ConfigError
from sae_train.lm.answer_end import first_line_is_whole
from sae_train.lm.answering import write_answers


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
        " I’m sorry, but I don’t have information about that place.",
        " As an AI language model, I cannot say",
        " Unfortunately, I could not find it",
        " There is no such city",
        " I am not familiar with it",
        " I'm unable to answer",
        " It is unclear",
        " That is not known",
        " I have no record of it",
        " Could you please provide more context?",
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
        (" Notting", "wrong"),
        (" I think it is Uganda", "wrong"),
        (" it is in Uganda", "wrong"),
        (" no man's land", "wrong"),
        (" Sorrento", "wrong"),
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


@pytest.mark.parametrize("text", [" Kenya. It", " Kenya\nIt", "Dr. Nope. Then", " 3.5 km. So"])
def test_what_is_written_behind_the_first_line_changes_nothing(text):
    assert first_line_is_whole(text)
    for cut in range(len(text)):
        if first_line_is_whole(text[:cut]):
            assert first_line(text[:cut]) == first_line(text)
            break
    assert not first_line_is_whole(first_line(text)), "the control"


def test_a_longer_value_of_another_entity_is_not_a_right_one():
    rivals = Rivals(["Guinea", "Papua New Guinea", "Equatorial Guinea", "Ghana", "New Guinea Bay"])
    accepted = ["Guinea"]
    assert judge(" Papua New Guinea", accepted) == "right", "without the others nobody can tell"
    assert judge(" Papua New Guinea", accepted, rivals.of(accepted)) == "wrong"
    assert judge(" Guinea, not Papua New Guinea", accepted, rivals.of(accepted)) == "right"
    assert judge(" Papua New Guinea", ["Papua New Guinea"], rivals.of(["Papua New Guinea"])) == "right"
    both = ["Congo", "Democratic Republic of the Congo"]
    assert Rivals(both).of(both) == ()


def records(**right: list[bool]) -> dict[str, AttributeRecord]:
    return {a: AttributeRecord(tuple("right" if ok else "wrong" for ok in flags)) for a, flags in right.items()}


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
        ({}, "between"),
    ],
)
def test_paraphrases_for_one_and_for_four_attributes(flags, label):
    assert label_of(records(**flags), KnowledgeRule()) == label


@pytest.mark.parametrize(
    ("n_right", "label"),
    [
        ({"a": 3, "b": 3, "c": 0}, "known"),
        ({"a": 3, "b": 2, "c": 2}, "between"),
        ({"a": 2, "b": 2, "c": 2}, "unknown"),  # below three of ten is not known
        ({"a": 3}, "known"),  # the only attribute
        ({"a": 2}, "unknown"),
    ],
)
def test_ferrando_counts_samples_and_no_greedy_answer(n_right, label):
    for greedy in (("right",), ("wrong",)):
        found = {a: AttributeRecord(greedy, ("right",) * n + ("wrong",) * (10 - n)) for a, n in n_right.items()}
        assert label_of(found, KnowledgeRule("ferrando")) == label


def test_ferrando_needs_samples():
    with pytest.raises(ConfigError) as caught:
        label_of(records(a=[True]), KnowledgeRule("ferrando"))
    assert "samples=10" in str(caught.value)


def test_the_rule_can_ask_for_more():
    said = records(a=[True], b=[True], c=[False], d=[False])
    assert label_of(said, KnowledgeRule(min_known_attributes=3)) == "between"
    assert label_of(said, KnowledgeRule(min_known_attributes=2)) == "known"


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "ferando"},
        {"min_known_attributes": 0},
        {"min_frac_right": 1.0},
        {"min_frac_sample": 0.0},
        {"min_frac_sample": float("nan")},
    ],
)
def test_rules_out_of_range(bad):
    with pytest.raises(ConfigError):
        KnowledgeRule(**bad)


def test_recall_weighs_entities_equally():
    prompt = Prompt("x", 0, 1, "t:X", "{name}", "a")
    right, wrong = Answer(prompt, "", "right"), Answer(prompt, "", "wrong")
    assert recall({"t:X": [right], "t:Y": [right, wrong, wrong, wrong], "t:Z": []}) == pytest.approx(0.625)
    assert recall({}) != recall({}), "nothing asked: NaN"


@pytest.fixture(scope="module")
def asked(world_lm, world_entities, world_templates):
    """Six entities with facts and six never seen, asked greedily and with ten samples."""
    by_seen = {s: [e for e in world_entities if e.seen == s] for s in ("facts", "never")}
    chosen = [*by_seen["facts"][::8], *by_seen["never"][::7]]
    assert [e.seen for e in chosen].count("facts") == 6
    assert [e.seen for e in chosen].count("never") == 6
    decoding = replace(GREEDY, samples=10)
    return ask_and_label(world_lm, chosen, world_templates, KnowledgeRule("ferrando"), decoding=decoding)


def test_the_shipped_model_is_labelled_rightly_by_both_rules(asked):
    for rule in ("ferrando", "paraphrases"):
        for labelled in relabel(asked, KnowledgeRule(rule)):
            assert labelled.label == {"facts": "known", "never": "unknown"}[str(labelled.seen)], labelled


def test_every_answer_is_kept_and_read_again(asked, world_lm, world_templates, tmp_path):
    for labelled in asked:
        for attribute, texts in labelled.answers.items():
            assert len(texts) == len(world_templates.ask[labelled.type][attribute]) == len(labelled.samples[attribute])
            assert all(len(drawn) == 10 for drawn in labelled.samples[attribute])
        assert labelled.name_tokens == len(
            world_lm.tokenizer(" " + labelled.name, add_special_tokens=False)["input_ids"]
        )
    save_entities(asked, tmp_path / "labels.jsonl")
    assert load_entities(tmp_path / "labels.jsonl", need_labels=True) == asked


def test_samples_do_not_change_the_greedy_answers(asked, world_lm, world_templates):
    plain = ask_and_label(world_lm, asked[:4], world_templates, KnowledgeRule())
    assert [e.answers for e in plain] == [e.answers for e in asked[:4]]
    assert not any(e.samples for e in plain)


@pytest.mark.parametrize("rule", ["ferrando", "paraphrases"])
def test_with_shuffled_facts_nobody_is_known(asked, rule):
    """The negative control: the same answers, other entities' facts."""
    known = [e for e in asked if e.seen == "facts"]
    shifted = []
    for entity in known:
        others = (o for o in known if o.type == entity.type and all(o.facts[a] != entity.facts[a] for a in o.facts))
        shifted += [replace(entity, facts=other.facts) for other in others]
    assert len(shifted) >= 4
    assert "known" not in [e.label for e in relabel(shifted, KnowledgeRule(rule))]


def _log(path, entities, **changes):
    return AnswerLog(path, {"model": "m", "entities": [e.key for e in entities], **changes}, resume=True)


def test_a_disk_that_is_full_at_the_first_line_leaves_no_log(tmp_path, monkeypatch):
    """Half of it could neither be continued nor be begun again."""
    real = Path.write_text

    def half(self, text, *args, **settings):
        real(self, text[: len(text) // 2], *args, **settings)
        raise OSError(28, "No space left on device", str(self))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="space"):
        patch.setattr(Path, "write_text", half)
        AnswerLog(tmp_path / "labels.jsonl", {"model": "m"}, resume=False)
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_cut_off_goes_on_to_the_same_file(
    world_lm, world_entities, world_templates, tmp_path, monkeypatch
):
    monkeypatch.setattr("features.labels.knowledge.ASK_BLOCK", 12)
    chosen = world_entities[::12]
    rule, decoding = KnowledgeRule("ferrando"), replace(GREEDY, samples=3)
    once, again = tmp_path / "once.jsonl", tmp_path / "again.jsonl"
    with _log(once, chosen) as log:
        log.finish(ask_and_label(world_lm, chosen, world_templates, rule, decoding=decoding, log=log))
    assert not log.path.exists()

    class Killed(Exception):
        pass

    def die(n: int) -> None:
        calls.append(n)
        if len(calls) == 3:
            raise Killed

    calls: list[int] = []
    with pytest.raises(Killed), _log(again, chosen) as log:
        ask_and_label(world_lm, chosen, world_templates, rule, decoding=decoding, log=log, advance=die)
    log.path.write_bytes(log.path.read_bytes()[:-20])  # the last line was cut off, too
    with _log(again, chosen) as log:
        kept = len(log.kept)
        assert 0 < kept < len(chosen)
        asked_for: list[int] = []
        labelled = ask_and_label(
            world_lm, chosen, world_templates, rule, decoding=decoding, log=log, advance=asked_for.append
        )
        log.finish(labelled)
    assert again.read_bytes() == once.read_bytes()
    with _log(again, chosen) as log:
        log.add(chosen[:1])
    with pytest.raises(ConfigError) as caught:
        _log(again, chosen, model="another")
    assert "model another" in str(caught.value.got)
    with _log(again, chosen) as log:
        assert list(log.kept) == [chosen[0].key]
    assert entity_line(chosen[0]) in log.path.read_text(encoding="utf-8")


def test_what_cannot_be_asked_is_between(world_lm):
    templates = Templates(
        mention={"city": ["{name}"]}, ask={"city": {"country": ["{name} lies in"]}}, heldout={"city": {}}
    )
    entity = Entity("Velmora", "city", {"river": ["Ost"]})
    assert ask(world_lm, [entity], templates, heldout=False) == {"city:Velmora": []}
    assert ask_and_label(world_lm, [entity], templates, KnowledgeRule())[0].label == "between"


def test_answers_that_are_sentences_get_room_to_be_right(world_lm, world_entities, world_templates, monkeypatch):
    limits = []

    def watched(lm, ids, decoding):
        limits.append((len(ids), decoding.max_new_tokens))
        return write_answers(lm, ids, decoding)

    monkeypatch.setattr("features.labels.knowledge.write_answers", watched)
    known = [e for e in world_entities if e.seen == "facts" and e.type == "person"][:2]
    job = {"person": {"job": world_templates.ask["person"]["job"][:2]}}
    templates = replace(world_templates, ask=job)
    plain = ask(world_lm, known, templates, heldout=False)
    sentence = f"It is the work of this person, as we read in all the records, to be a {known[1].facts['job'][0]}."
    long = [known[0], replace(known[1], facts={"job": [*known[1].facts["job"], sentence]})]
    found = ask(world_lm, long, templates, heldout=False)
    assert limits == [(4, GREEDY.max_new_tokens), (2, GREEDY.max_new_tokens), (2, LONG_ANSWER_TOKENS)]
    assert {k: [(a.prompt, a.verdict) for a in v] for k, v in found.items()} == {
        k: [(a.prompt, a.verdict) for a in v] for k, v in plain.items()
    }, "in the order of the questions, and what was right stays so"
