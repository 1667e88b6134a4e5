"""`wb label-entities` beyond what all commands share: samples, rules, --labels, --stats, --resume, other inputs."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def asked(wb_files):
    """The words that ask about four cities of the world."""
    return ("--model", "fact-world", "--templates", wb_files.templates)


@pytest.fixture
def few(wb_files, tmp_path):
    """A file of six entities."""
    lines = wb_files.entities.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join([*lines[:3], *lines[-3:]]) + "\n", encoding="utf-8")
    return path


def test_samples_bring_ferrandos_rule_and_are_the_same_again(wb, asked, few, tmp_path):
    outs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    words = [(*asked, "--entities", few, "--samples", 4, "--out", outs[0]), (*asked, "--entities", few)]
    found = json.loads(wb("label-entities", *words[0], "--json").out)
    assert (found["rule"], found["known"], found["unknown"]) == ("ferrando", 3, 3)
    assert wb("label-entities", *words[1], "--samples", 4, "--out", outs[1]).code == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    lines = [json.loads(line) for line in outs[0].read_text(encoding="utf-8").splitlines()]
    assert all(len(drawn) == 4 for line in lines for texts in line["samples"].values() for drawn in texts)
    other = (*words[1], "--samples", 4, "--seed", 1, "--overwrite", "--out", outs[1])
    assert wb("label-entities", *other).code == 0
    assert outs[0].read_bytes() != outs[1].read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_another_rule_and_the_stats_need_no_model(wb, wb_files, tmp_path):
    out = tmp_path / "again.jsonl"
    words = ("--labels", wb_files.labels, "--min-known-attributes", 1, "--out", out, "--stats")
    found = json.loads(wb("label-entities", *words, "--json").out)
    assert found["rule"] == "paraphrases"
    assert found["known"] >= wb_files.json["label-entities"]["known"]
    assert sum(1 for _ in out.open()) == found["known"] + found["unknown"] + found["between"]
    stats = found["stats"]
    assert stats["known_by_chance"] < 0.2
    assert {g["by"] for g in stats["groups"]} == {"all", "type", "name length"}
    assert {e["label"] for e in stats["examples"]} >= {"known", "unknown"}
    table = wb("label-entities", "--labels", wb_files.labels, "--stats")
    assert table.code == 0 and "Some answers" in table.out and "name length" in table.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.jsonl"]


def test_a_table_with_popularity(wb, asked, wb_files, tmp_path):
    rows = [json.loads(line) for line in wb_files.entities.read_text(encoding="utf-8").splitlines()]
    cities = [r for r in rows if r["type"] == "city"][:4]
    cells = [f"{r['name']},city,{9 - i},{r['facts']['country'][0]}" for i, r in enumerate(cities)]
    table, out = tmp_path / "cities.csv", tmp_path / "labels.jsonl"
    table.write_text("\n".join(["name,type,popularity,country", *cells, cells[0]]), encoding="utf-8")
    words = (*asked, "--entities", table, "--out", out)
    refused = wb("label-entities", *words)
    assert refused.code == 2 and "line 2" in refused.err and "line 6" in refused.err
    assert wb("label-entities", *words, "--duplicates", "first").code == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["popularity"] for line in lines] == [9.0, 8.0, 7.0, 6.0]


def test_a_finished_run_is_not_resumed(wb, asked, wb_files):
    outcome = wb("label-entities", *asked, "--entities", wb_files.entities, "--out", wb_files.labels, "--resume")
    assert outcome.code == 2 and "finished" in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--labels", "LABELS"),
        ("--labels", "LABELS", "--model", "fact-world", "--stats"),
        ("--labels", "LABELS", "--rule", "ferrando", "--stats"),
        ("--model", "fact-world", "--entities", "fact-world", "--templates", "fact-world"),
        (
            "--model",
            "fact-world",
            "--entities",
            "fact-world",
            "--templates",
            "fact-world",
            "--out",
            "o",
            "--chat",
            "on",
        ),
        (
            "--model",
            "fact-world",
            "--entities",
            "fact-world",
            "--templates",
            "fact-world",
            "--out",
            "o",
            "--samples",
            -1,
        ),
        ("--model", "fact-world", "--entities", "fact-world", "--templates", "fact-world", "--out", "o")
        + ("--samples", 0, "--rule", "ferrando"),
        ("--model", "fact-world", "--entities", "fact-world", "--templates", "fact-world", "--out", "o")
        + ("--samples", 2, "--temperature", 0),
        ("--model", "fact-world", "--entities", "cities", "--templates", "fact-world", "--out", "o"),
    ],
)
def test_calls_that_make_no_sense(wb, wb_files, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    outcome = wb("label-entities", *(wb_files.labels if w == "LABELS" else w for w in words))
    assert outcome.code == 2, outcome.err
    assert "expected:" in outcome.err
    assert list(tmp_path.iterdir()) == []
