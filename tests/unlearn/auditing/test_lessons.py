"""Attacks by lessons: what they teach and ask, what is reported of their path, and what they bring back.

`hushed` was only silenced, `innocent` never knew (`fixtures_attacks.py`).
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from features.entities.entities import Entity, load_entities
from features.entities.prompts import questions
from features.entities.templates import Templates, load_templates
from features.factworld import shipped_world
from sae_train.intervals import Interval
from sae_train.lm.generate import answer_loss
from sae_train.lm.models import weights_hash
from unlearn.auditing.attack_results import CLOZE, PROBABILITY, QA
from unlearn.auditing.attacks import path as path_module
from unlearn.auditing.attacks.finetune import attack_finetune
from unlearn.auditing.attacks.path import PathConfig, PathPoint, highest, lessons_per_step, path_config
from unlearn.auditing.attacks.readings import Compared, Reader, read_wordings
from unlearn.auditing.attacks.relearn import attack_relearn, part, relearn
from unlearn.auditing.attacks.same_form import attack_same_form, same_form
from unlearn.auditing.attacks.teacher import Teacher
from unlearn.auditing.audit import not_tested
from unlearn.auditing.audit_json import findings_to_json, report_from_json, report_to_json
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.audit_tables import figure_rows

STATEMENT, QUESTION, OTHER = "In {name} flows the", "Q: What river is in {name}? A:", "The river of {name} is"


@pytest.fixture(scope="module")
def whole_templates():
    """All wordings of the shipped world: of every attribute two held-out statements and two held-out questions."""
    return load_templates(shipped_world() / "templates.json")


@pytest.fixture(scope="module")
def people():
    """Of every type: three known entities to attack, five to teach, three never seen; four facts each."""
    found = load_entities(shipped_world() / "entities.jsonl")
    kinds = dict.fromkeys(e.type for e in found)
    by_seen = {
        seen: [[e for e in found if (e.type, e.seen) == (k, seen)] for k in kinds] for seen in ("facts", "never")
    }
    targets, others = ([e for own in by_seen["facts"] for e in own[part]] for part in (slice(3), slice(3, 8)))
    return targets, others, [e for own in by_seen["never"] for e in own[:3]]


@pytest.fixture
def taught(monkeypatch):
    """The lessons of every step, in a list; nobody is taught anything."""
    steps = []

    class Recorder(Teacher):
        def step(self, lessons):
            steps.append(lessons)

    monkeypatch.setattr(path_module, "Teacher", Recorder)
    monkeypatch.setattr(Reader, "read", lambda self, lm: path_module.Read(NOTHING, {}))
    return steps


NOTHING = Compared(Interval(0.0, 0.0, 0.0), Interval(0.0, 0.0, 0.0))


def texts_of(lm, steps):
    """Return the contexts of lessons as texts, each once."""
    fronts = [front for lessons in steps for front, _ in lessons]
    return {text.strip() for text in lm.tokenizer.batch_decode(fronts, skip_special_tokens=True)}


# ------------------------------------------------------------------------------------------------ what is taught


def test_relearning_never_teaches_what_it_asks(world_lm, people, whole_templates, taught):
    """Neither in the same words nor the same fact in others; and it teaches targets and control alike."""
    targets, _, never = people
    config = PathConfig(steps=(40,), lrs=(1e-3,), batch_size=60)
    relearn(world_lm, targets, never, whole_templates, config)
    lessons = texts_of(world_lm, taught)
    for group in (targets, never):
        asked = {(e.key, a) for e in part(group, config.seed)[0].asked for a in e.facts}
        by_text = {p.text: (p.entity, p.attribute) for e in group for p in questions(e, whole_templates, heldout=False)}
        own = {by_text[text] for text in lessons if text in by_text}
        assert own and not own & asked
        held = {p.text for e in group for p in questions(e, whole_templates, heldout=True)}
        assert not lessons & held
    assert all(len(step) == 120 for step in taught)


def test_same_form_lessons_are_the_questions_about_others(world_lm, people, whole_templates, taught):
    """In the wordings that ask and no others, about neither target nor control."""
    targets, others, never = people
    config = PathConfig(steps=(30,), lrs=(1e-3,), batch_size=60, max_wordings=1)
    found = same_form(world_lm, others, targets, never, whole_templates, config)
    reader = Reader(targets, never, whole_templates, 1, 0)
    expected = {p.text for e in others for p in questions(e, reader.templates, heldout=True)}
    assert texts_of(world_lm, taught) == expected
    assert {p.template for p in reader.prompts} == {
        p.template for e in others for p in questions(e, reader.templates, heldout=True)
    }
    assert not any(e.name in text for e in (*targets, *never) for text in expected)
    assert (found.split, found.n_taught, found.n_asked) == ("entities", 80, 48)


def test_a_form_that_nobody_else_is_asked_in_teaches_nothing(world_lm):
    asked = {"city:Ost": {"q1": ["What lies near {name}?"]}, "city:Velmora": {"q1": ["Who built {name}?"]}}
    own = Templates({}, {"city": {}}, {"city": {}, **asked})
    target, other = Entity("Ost", "city", {"q1": ["Lim"]}), Entity("Velmora", "city", {"q1": ["Lim"]})
    assert same_form(world_lm, [other], [target], [], own) is None


# ------------------------------------------------------------------------------------------------ what is read


def test_the_first_wordings_of_either_sort_are_read():
    templates = Templates({}, {}, {"city": {"river": [STATEMENT, OTHER, QUESTION]}})
    assert read_wordings(templates, 1).heldout == {"city": {"river": [STATEMENT, QUESTION]}}
    assert read_wordings(templates, 2).heldout == templates.heldout
    city = Entity("Ost", "city", {"river": ["Lim"]})
    reader = Reader([city], [city], templates, 1, 0)
    assert reader.not_read == () and reader.first == {"In Ost flows the"}


@pytest.mark.parametrize(("wordings", "missing"), [([STATEMENT, OTHER], QA), ([QUESTION], CLOZE)])
def test_a_sort_without_wordings_is_not_made_up(wordings, missing, world_lm):
    templates = Templates({}, {}, {"city": {"river": wordings}})
    city = Entity("Ost", "city", {"river": ["Lim"]})
    reader = Reader([city], [city], templates, 2, 0)
    assert reader.not_read == (missing,)
    found = reader.read(world_lm).readings
    assert set(found) == {QA, CLOZE, PROBABILITY} - {missing}


def test_readings_of_who_knows_and_who_does_not(world_lm, people, whole_templates):
    targets, _, never = people
    found = Reader(targets[:3], never[:3], whole_templates, 1, 0).read(world_lm)
    assert set(found.readings) == {QA, CLOZE, PROBABILITY}
    for name, reading in found.readings.items():
        assert reading.target.value > 0.9 and reading.control.value < 0.3, name
    assert found.first == found.readings[CLOZE], "the first held-out wordings are statements"


# ------------------------------------------------------------------------------------------------ what is reported


def test_the_highest_value_of_the_path_is_reported_where_it_was():
    """Targets and control each for themselves; of equal ones the earliest, and no lesson counts."""

    def point(lr, step, target, control):
        ends = Interval(target, 0.0, 1.0), Interval(control, 0.0, 1.0)
        return PathPoint(lr, step, *ends, {QA: Compared(*ends)})

    points = [point(0.0, 0, 0.1, 0.2), point(1e-4, 10, 0.6, 0.1), point(1e-4, 30, 0.6, 0.0), point(1e-3, 10, 0.2, 0.2)]
    found = highest(QA, points, 0.9)
    assert (found.target.value, found.target_lr, found.target_step) == (0.6, 1e-4, 10)
    assert (found.control.value, found.control_lr, found.control_step) == (0.2, 0.0, 0)
    assert found.before == 0.9


@pytest.fixture(scope="module")
def few_steps(hushed, whole_templates):
    """Both attacks on the silenced model, two steps."""
    context = replace(hushed, templates=whole_templates, config=replace(hushed.config, attack_steps=(2,)))
    return {"relearn": attack_relearn(context), "same-form": attack_same_form(context)}


def test_every_recall_is_judged_and_the_probability_is_shown(few_steps):
    for found in few_steps.values():
        assert [s.name for s in found.settings] == [
            f"{point}, {sort}" for point in ("no lesson", "2 steps at 0.001") for sort in ("questions", "cloze")
        ]
        assert found.worst == max(found.settings, key=lambda s: s.target.value - s.control.high)
        for setting, (name, point) in zip(found.settings, [(n, p) for p in (0, 1) for n in (QA, CLOZE)], strict=True):
            read = found.relearning.curve[point].readings[name]
            assert (setting.target.value, setting.control.value) == (read.target, read.control)
            assert setting.before > 0.9
        most = found.relearning.highest
        assert set(most) == {QA, CLOZE, PROBABILITY}
        for name, one in most.items():
            assert one.target.value == max(p.readings[name].target for p in found.relearning.curve)


def test_a_path_is_written_and_read_and_stands_in_the_table(few_steps, one_name):
    report = replace(one_name(), attacks=few_steps)
    raw = json.loads(json.dumps(report_to_json(report)))
    found = raw["attacks"]["same-form"]
    assert (found["split"], found["curve"][1]["step"]) == ("entities", 2)
    assert set(found["curve"][1]) == {"lr", "step", "target", "control", "readings"}
    assert found["highest"]["cloze"]["target_high"] == few_steps["same-form"].relearning.highest[CLOZE].target.high
    assert repr(report_from_json(raw)) == repr(report)
    rows = {row.figure: row for row in figure_rows(report) if row.group == "attacks"}
    shown = rows["highest answer probability under relearn"]
    assert shown.after == few_steps["relearn"].relearning.highest[PROBABILITY].target.value and shown.before > 0.9


def test_what_could_not_be_read_is_said(hushed):
    """The wordings of `hushed` are statements only."""
    context = replace(hushed, config=replace(hushed.config, attack_steps=(1,)))
    found = attack_same_form(context)
    assert found.relearning.not_read == (QA,) and {s.name.split(", ")[1] for s in found.settings} == {"cloze"}
    lines = not_tested(context, Findings(attacks={"same-form": found}, evaluated=("same-form",)))
    assert "same-form, read by questions: no held-out wording is of that sort" in lines
    assert "attacks" not in findings_to_json(Findings(attacks={"same-form": found}))


def test_a_large_model_gets_half_as_many_lessons(hushed, monkeypatch, taught):
    assert (lessons_per_step(hushed), path_config(hushed).batch_size) == (16, 16)
    monkeypatch.setattr(path_module, "SMALL", 1000)
    assert lessons_per_step(hushed) == 8
    asked_for = replace(hushed, config=replace(hushed.config, attack_lessons=3))
    assert lessons_per_step(asked_for) == 3
    attack_module = "unlearn.auditing.attacks.finetune"
    sizes = []
    monkeypatch.setattr(f"{attack_module}.compare", lambda *args: few_settings())
    monkeypatch.setattr(f"{attack_module}.Teacher.step", lambda self, lessons: sizes.append(len(lessons)))
    attack_finetune(hushed)
    assert set(sizes) == {4}


def few_settings():
    from unlearn.auditing.attack_results import AttackSetting

    return AttackSetting("x", NOTHING.target, NOTHING.control, math.nan)


# ------------------------------------------------------------------------------------------------ what it costs


def test_packed_lessons_teach_what_padded_ones_teach(world_lm, people, whole_templates, monkeypatch):
    """The same curve to a float's rounding, and fewer places in the batch."""
    targets, _, never = people
    config = PathConfig(steps=(3,), lrs=(1e-3,), max_wordings=1)
    found = []
    for packed in (True, False):
        monkeypatch.setattr("unlearn.auditing.attacks.teacher.can_pack", lambda model, packed=packed: packed)
        found.append(relearn(world_lm, targets[:2], never[:2], whole_templates, config).points[-1])
    packed, padded = found
    assert (packed.target, packed.control) == (padded.target, padded.control)
    for name, reading in packed.readings.items():
        assert reading.target.value == pytest.approx(padded.readings[name].target.value, abs=1e-4), name
        assert reading.control.value == pytest.approx(padded.readings[name].control.value, abs=1e-4), name
    before = Reader(targets[:2], never[:2], whole_templates, 1, 0).read(world_lm).readings[PROBABILITY]
    assert before.control.value != pytest.approx(packed.readings[PROBABILITY].control.value, abs=1e-3), "it was taught"


def test_a_teacher_packs_and_leaves_the_model(world_lm, monkeypatch):
    said = []

    def noted(model, lessons, device, *, packed):
        said.append(packed)
        return answer_loss(model, lessons, device, packed=packed)

    monkeypatch.setattr("unlearn.auditing.attacks.teacher.answer_loss", noted)
    before = weights_hash(world_lm.model)
    teacher = Teacher.of_copy(world_lm, 1e-3)
    teacher.step([([1, 2, 3], [4]), ([5, 6], [7, 8])])
    assert said == [True]
    assert weights_hash(world_lm.model) == before != weights_hash(teacher.lm.model)


# ------------------------------------------------------------------------------------------------ what it brings back


@pytest.mark.slow
@pytest.mark.parametrize("attack", [attack_relearn, attack_same_form])
def test_lessons_bring_back_what_was_silenced_only(hushed, innocent, whole_templates, attack):
    """By every reading there is; of names that nobody knew hardly more than of the control, by any."""
    config = replace(hushed.config, attack_steps=(10, 30, 60), attack_lrs=(3e-4, 1e-3))
    silenced, never = (attack(replace(c, templates=whole_templates, config=config)) for c in (hushed, innocent))
    assert silenced.recall_after.value > silenced.compared.high + 0.1
    for name, most in silenced.relearning.highest.items():
        assert most.target.value > most.control.value + 0.1, name
        assert most.target_step > 0
    assert never.recall_after.value <= never.compared.high + 0.1
    for name, most in never.relearning.highest.items():
        assert most.target.value <= most.control.high + 0.1, name
