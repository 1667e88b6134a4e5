"""`wb import-entities` and `--entities-format`: what is written, what is refused, and that the result is asked."""

from __future__ import annotations

import json

import pytest

ROWS = [
    {"name": "Mira Tolvan", "question": "Where was Mira Tolvan born?", "answer": "Velmora"},
    {"name": "Edo Karvin", "question": "Where does he live?", "answer": "Osk"},
]


@pytest.fixture
def source(tmp_path):
    """Two questions about two people, one of which names nobody."""
    path = tmp_path / "forget.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_what_is_imported_can_be_asked(wb, source, tmp_path):
    out = tmp_path / "imported"
    outcome = wb("import-entities", source, "--format", "qa", "--type", "poet", "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["rows"], found["used"], found["entities"], found["forget"]) == (2, 1, 1, 1)
    assert found["skipped"] == {"the question does not name the entity": 1}
    assert (out / "forget.txt").read_text(encoding="utf-8") == "Mira Tolvan\n"
    asked = ("--entities", out / "entities.jsonl", "--templates", out / "templates.json", "--out", tmp_path / "l.jsonl")
    assert json.loads(wb("label-entities", "--model", "fact-world", *asked, "--json").out)["unknown"] == 1
    direct = ("--entities", source, "--out", tmp_path / "direct.jsonl")
    assert json.loads(wb("label-entities", "--model", "fact-world", *direct, "--json").out)["unknown"] == 1


def test_what_cannot_be_imported_says_why_and_leaves_nothing(wb, source, tmp_path):
    out = tmp_path / "imported"
    for words, told in (
        (("--format", "wmdp"), "fields of knowledge"),
        (("--format", "tofo"), "tofu"),
        (("--format", "popqa"), "line 1"),
    ):
        outcome = wb("import-entities", source, *words, "--out", out)
        assert outcome.code == 2 and told in outcome.err, outcome.err
        assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("kept", encoding="utf-8")
    assert wb("import-entities", source, "--out", out).code == 2
    own = tmp_path / "own.csv"
    own.write_text("name,type,country\nOsk,city,Ost\n", encoding="utf-8")
    outcome = wb("label-entities", "--model", "fact-world", "--entities", own, "--out", tmp_path / "l.jsonl")
    assert outcome.code == 2 and "--templates" in outcome.err
