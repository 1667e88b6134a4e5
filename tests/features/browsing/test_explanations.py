"""Explanations: requests out, answers in, scores. Right answers score one, blind ones a half."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from features import browse
from features.browsing.explanations import Answer, Quiz, marked, read_answers
from features.browsing.records import Example
from sae_train.errors import FileFormatError
from sae_train.run.progress import silent

COMMON, RARE, NEVER = 2, 5, 7
GIVEN = {"n_before": 2, "n_after": 2, "n_top": 3, "progress": silent}


@pytest.fixture
def asked(planted, tmp_path):
    """Explanations of two latents of the planted store, the requests that test them, and a run with given answers."""
    path, token, _, sae = planted()
    file = tmp_path / "answers.json"

    def run(answers):
        file.write_text(json.dumps(answers), encoding="utf-8")
        return browse(sae, path, answers=file, **GIVEN)

    said = [{"index": j, "explanation": f"the token {j}"} for j in (COMMON, RARE)]
    return run, said, run(said), token


def answers_of(found, answer):
    """Answer every task: `answer(latent, task, text)` says whether a text fits."""
    return [
        {
            "index": r["index"],
            "explanation": r["explanation"],
            "key": r["key"],
            **{
                task: [int(answer(r["index"], task, text)) for text in r[task]["texts"]]
                for task in ("detection", "fuzzing")
                if task in r
            },
        }
        for r in found.requests["score.json"]
    ]


def knows(latent: int, task: str, text: str) -> bool:
    """Tell what somebody does who reads the token in the text: the planted latent `j` fires at the token `#j`."""
    if task == "detection":
        return f"#{latent} " in text
    return all(part.strip() == f"#{latent}" for part in re.findall(r"<<(.*?)>>", text))


def test_a_request_has_the_strongest_examples_with_marks(planted):
    path, _, _, sae = planted()
    found = browse(sae, path, n_explained=3, **GIVEN)
    requests = found.requests["explain.json"]
    assert len(requests) == 3 and len({r["index"] for r in requests}) == 3
    for request in requests:
        latent = request["index"]
        assert not found.is_dead()[latent]
        examples = request["prompt"].split("\n\n")[1:]
        marks = [re.findall(r"<<(.*?)>>", e) for e in examples]
        assert len(examples) == 3 and all(marks)
        assert {token for found in marks for mark in found for token in mark.split()} == {f"#{latent}"}


def test_right_answers_score_one_and_blind_ones_a_half(asked):
    run, _, first, _ = asked
    assert first.explained[COMMON].detection is None and first.explained[COMMON].explanation == "the token 2"
    right = run(answers_of(first, knows)).explained
    assert right[COMMON].detection.balanced_accuracy == right[COMMON].fuzzing.balanced_accuracy == 1
    for blind in (0, 1):
        found = run(answers_of(first, lambda *_, said=blind: said)).explained
        assert {found[COMMON].detection.balanced_accuracy, found[COMMON].fuzzing.balanced_accuracy} == {0.5}
    other = run(answers_of(first, lambda latent, task, text: knows(latent - 1, task, text))).explained
    assert other[COMMON].detection.balanced_accuracy < 0.9, "the explanation of another latent does not pass"
    wrong = run(answers_of(first, lambda *a: not knows(*a)))
    assert wrong.explained[COMMON].fuzzing.balanced_accuracy == 0
    assert wrong.table()["detection"][COMMON] == 0 and wrong.summary()["fuzzing"] == 0


def test_tests_use_other_text_than_the_prompt(asked):
    _, _, first, _ = asked
    prompt = {(e.doc_id, e.position) for e in first.record(COMMON).top}
    request = next(r for r in first.requests["score.json"] if r["index"] == COMMON)
    shown = {first.text(e) for e in first.record(COMMON).top}
    loud = [t for t in request["detection"]["texts"] if knows(COMMON, "detection", t)]
    assert prompt and len(loud) == len(request["detection"]["texts"]) / 2
    fresh = {
        first.text(e)
        for e in first.record(COMMON).sampled
        if not any(e.doc_id == d and abs(e.position - p) < 5 for d, p in prompt)
    }
    assert set(loud) <= fresh and "truth" not in json.dumps(request)
    assert shown, "there are examples to keep away from"


def test_a_latent_with_too_few_texts_is_not_tested(asked):
    """The rare token stands five times; three of them are in the prompt."""
    _, _, first, _ = asked
    request = next(r for r in first.requests["score.json"] if r["index"] == RARE)
    assert "fuzzing" not in request and len(request["detection"]["texts"]) == 4


def test_marks_stand_around_runs_of_tokens():
    words = dict(enumerate("abcd"))
    assert marked(Example(0, 0, 0, [0, 1, 2, 3], [1.0, 2.0, 0.0, 1.0]), words) == "<<ab>>c<<d>>"
    assert marked(Example(0, 0, 0, [0, 1, 2], [1.0, 0.0, 0.0]), words, [False, True, True]) == "a<<bc>>"


def test_the_balanced_accuracy_weighs_both_kinds_alike():
    quiz = Quiz({"detection": ["a"] * 5}, {"detection": np.array([True, False, False, False, False])})
    score = quiz.score(Answer("", quiz.key, {"detection": [1, 1, 0, 0, 0]}))["detection"]
    assert score.balanced_accuracy == pytest.approx((1 + 0.75) / 2) and (score.n_right, score.n_wrong) == (1, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "a list of objects"),
        ([3], "an object"),
        ([{"index": 99, "explanation": "x"}], "0 to 7"),
        ([{"index": True, "explanation": "x"}], "0 to 7"),
        ([{"index": 1, "explanation": "x"}] * 2, "each once"),
        ([{"index": 1, "explanation": 3}], "a text"),
        ([{"index": 1, "explanation": "x", "detection": [2]}], "0 and 1"),
    ],
)
def test_answers_that_cannot_be_read(tmp_path, given, said):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(given), encoding="utf-8")
    with pytest.raises(FileFormatError) as caught:
        read_answers(path, 8)
    assert said in str(caught.value.expected)


def test_answers_to_other_texts_are_refused(asked):
    run, _, first, _ = asked
    given = answers_of(first, knows)
    with pytest.raises(FileFormatError, match="key"):
        run([{**given[0], "key": "0" * 16}])
    with pytest.raises(FileFormatError, match="answers to detection"):
        run([{**given[0], "detection": [1]}])
    assert run([{**given[0], "explanation": None}]).explained == {}
    with pytest.raises(FileFormatError):
        run([{"index": NEVER, "explanation": "nothing", "key": "", "detection": [1]}])
