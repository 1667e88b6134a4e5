"""What an audit counts as said, in scripts of all kinds."""

from __future__ import annotations

import pytest

from features.entities.entities import Entity
from features.entities.prompts import questions
from features.entities.templates import Templates
from sae_train.lm.answering import Written
from sae_train.text.words import graphemes
from unlearn.auditing.attacks.prompts import FORMS
from unlearn.auditing.context import AuditContext, neighbourhood
from unlearn.auditing.evaluations.behaviour import evaluate_behaviour, is_gibberish
from unlearn.auditing.evaluations.neighbours import kinds_of
from unlearn.auditing.evaluations.recall import _rouge, right_answers
from unlearn.config import AuditConfig

TEMPLATES = Templates({"city": ["{name}"]}, {"city": {"capital": ["{name} has"]}}, {"city": {"capital": ["{name}:"]}})


def context(lm, entity: Entity, said: str, monkeypatch: pytest.MonkeyPatch) -> AuditContext:
    """Return an audit of one target about which the model says this, before and after."""
    monkeypatch.setattr("features.labels.knowledge.write_answers", lambda *_: [Written(said)])
    roles = ("neighbours", "retain", "unknown", "control", "untouched", "probe_known", "probe_unknown")
    return AuditContext(
        before=lm,
        after=lm,
        templates=TEMPLATES,
        forget=[entity],
        hook_point="layers.1",
        text_name="",
        config=AuditConfig(),
        **{name: [] for name in (*roles, "blocks", "text")},
    )


def test_a_model_that_says_the_truth_in_a_sentence_has_forgotten_nothing(script, world_lm, monkeypatch):
    entity = Entity("Osk", "city", {"capital": [script.name]})
    for said in script.names_it:
        found = context(world_lm, entity, f" {said}", monkeypatch)
        assert right_answers(found, "forget", "after") == [1.0], said
        assert said != script.names_it[0] or _rouge(found, "after") > 0, said
        behaviour = evaluate_behaviour(found).behaviour
        assert behaviour is not None and behaviour.after.leak == 1.0, said


def test_a_model_that_says_something_else_does_not_leak(script, world_lm, monkeypatch):
    entity = Entity("Osk", "city", {"capital": [script.name]})
    for said in script.another:
        found = context(world_lm, entity, f" {said}", monkeypatch)
        assert right_answers(found, "forget", "after") == [0.0], said


@pytest.mark.parametrize(
    ("text", "gibberish"),
    [("東京です", False), ("ののののの", True), ("ह ह ह ह", True), ("हिन्दी में", False), ("。。。", True), ("🇰🇪", False)],
)
def test_gibberish(text, gibberish):
    assert is_gibberish(text) is gibberish


def test_names_share_words_not_characters():
    tokyo, kyoto = Entity("東京", "city"), Entity("京都", "city")
    assert neighbourhood(tokyo, kyoto) == 0 and kinds_of(kyoto, [tokyo]) == {"same type"}
    assert neighbourhood(Entity("山田 太郎", "person"), Entity("山田 花子", "person")) == 1
    assert neighbourhood(Entity("चीन", "country"), Entity("चेन", "country")) == 0


@pytest.mark.parametrize("name", ["Nairobi", "हैदराबाद", "กรุงเทพมหานคร", "요하네스버그", "Nguye\u0302\u0303n"])
def test_a_misspelling_swaps_letters_with_their_marks(name, world_lm, monkeypatch):
    entity = Entity(name, "city", {"capital": ["x"]})
    (prompt,) = questions(entity, TEMPLATES, heldout=True)
    wrong = FORMS["misspelling"](context(world_lm, entity, "", monkeypatch), entity, prompt)
    assert wrong is not None and wrong != prompt.text
    assert sorted(graphemes(wrong)) == sorted(graphemes(prompt.text))
