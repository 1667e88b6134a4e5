"""`wb label-entities` beyond what all commands share: samples, rules, --labels, --stats, --resume, other inputs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from features.entities.entities import save_entities


@pytest.fixture(scope="module")
def files(wb, world_entities, world_templates, tmp_path_factory):
    """Six people and four cities of the world, questions about them, and their labels."""
    here = tmp_path_factory.mktemp("labels")
    chosen = [e for s in ("facts", "never") for e in [w for w in world_entities if w.seen == s][:3]]
    chosen += [e for e in world_entities if e.type == "city" and e.seen == "facts"][:4]
    save_entities(chosen, here / "entities.jsonl")
    texts = {
        kind: {
            "mention": world_templates.mention[kind],
            **{a: {"ask": asked, "heldout": []} for a, asked in by_attribute.items()},
        }
        for kind, by_attribute in world_templates.ask.items()
    }
    (here / "templates.json").write_text(json.dumps(texts), encoding="utf-8")
    asked = ("--model", "fact-world", "--templates", here / "templates.json")
    labels = here / "labels.jsonl"
    outcome = wb("label-entities", *asked, "--entities", here / "entities.jsonl", "--out", labels, "--json")
    assert outcome.code == 0, outcome.err
    return SimpleNamespace(asked=asked, entities=here / "entities.jsonl", labels=labels, json=json.loads(outcome.out))


@pytest.fixture
def asked(files):
    """The words that ask."""
    return files.asked


@pytest.fixture
def few(files, tmp_path):
    """A file of six entities, three of them known."""
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(files.entities.read_text(encoding="utf-8").splitlines()[:6]) + "\n", encoding="utf-8")
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


def test_names_and_types_are_enough_without_an_answer_key(wb, asked, few, tmp_path):
    rows = [json.loads(line) for line in few.read_text(encoding="utf-8").splitlines()]
    bare, out = tmp_path / "names.csv", tmp_path / "labels.jsonl"
    bare.write_text("\n".join(["name,type", *(f"{r['name']},{r['type']}" for r in rows)]), encoding="utf-8")
    words = ("--entities", bare, "--rule", "self-consistent", "--samples", 2, "--out", out)
    found = json.loads(wb("label-entities", *asked, *words, "--json").out)
    assert (found["rule"], found["known"], found["unknown"]) == ("self-consistent", 3, 3)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["facts"] for line in lines[:3]] == [r["facts"] for r in rows[:3]], "what the model says is the truth"
    assert all(line["given_facts"] == {} and line["agreed"].keys() <= line["facts"].keys() for line in lines)
    again = json.loads(wb("label-entities", "--labels", out, "--stats", "--json").out)
    assert (again["rule"], again["known"]) == ("self-consistent", 3)


def test_another_rule_and_the_stats_need_no_model(wb, files, tmp_path):
    out = tmp_path / "again.jsonl"
    words = ("--labels", files.labels, "--min-known-attributes", 1, "--out", out, "--stats")
    found = json.loads(wb("label-entities", *words, "--json").out)
    assert found["rule"] == "paraphrases"
    assert found["known"] >= files.json["known"]
    assert len(out.read_text(encoding="utf-8").splitlines()) == found["known"] + found["unknown"] + found["between"]
    stats = found["stats"]
    assert stats["known_by_chance"] < 0.2
    assert {g["by"] for g in stats["groups"]} == {"all", "type", "name length"}
    assert {e["label"] for e in stats["examples"]} >= {"known", "unknown"}
    table = wb("label-entities", "--labels", files.labels, "--stats")
    assert table.code == 0 and "Some answers" in table.out and "name length" in table.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.jsonl"]


def test_a_table_with_popularity(wb, asked, files, tmp_path):
    rows = [json.loads(line) for line in files.entities.read_text(encoding="utf-8").splitlines()]
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


def test_a_finished_run_is_not_resumed(wb, asked, files):
    outcome = wb("label-entities", *asked, "--entities", files.entities, "--out", files.labels, "--resume")
    assert outcome.code == 2 and "finished" in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--labels", "LABELS"),
        ("--labels", "LABELS", "--model", "fact-world", "--stats"),
        ("--labels", "LABELS", "--rule", "ferrando", "--stats"),
        ("--labels", "LABELS", "--rule", "self-consistent", "--stats"),
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
def test_calls_that_make_no_sense(wb, files, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    outcome = wb("label-entities", *(files.labels if w == "LABELS" else w for w in words))
    assert outcome.code == 2, outcome.err
    assert "expected:" in outcome.err
    assert list(tmp_path.iterdir()) == []
