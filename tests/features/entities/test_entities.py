"""Entity files: every malformed row is named by its number; namesakes and near misses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from features.entities.entities import DUPLICATES, Entity, find_entity, load_entities, save_entities
from sae_train.errors import EntityError, FileFormatError, MissingFileError

GOOD = '{"name": "Velmora", "type": "city", "facts": {"country": ["Ardane"]}, "label": "known"}'


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "bad",
    [
        "{not json",
        '"a text"',
        "[1, 2]",
        '{"type": "city"}',
        '{"name": "", "type": "city"}',
        '{"name": "  ", "type": "city"}',
        '{"name": 7, "type": "city"}',
        '{"name": "Tashu"}',
        '{"name": "Tashu", "type": null}',
        '{"name": "Tashu", "type": "city", "facts": ["Ardane"]}',
        '{"name": "Tashu", "type": "city", "facts": {"country": []}}',
        '{"name": "Tashu", "type": "city", "facts": {"country": [3]}}',
        '{"name": "Tashu", "type": "city", "facts": {"country": [" "]}}',
        '{"name": "Tashu", "type": "city", "facts": {"country": null}}',
        '{"name": "Tashu", "type": "city", "label": "famous"}',
        '{"name": "Tashu", "type": "city", "aliases": null}',
        '{"name": "Tashu", "type": "city", "aliases": "Tash"}',
        '{"name": "Tashu", "type": "city", "aliases": [3]}',
        '{"name": "Tashu", "type": "city", "answers": ["Ardane"]}',
        '{"name": "Tashu", "type": "city", "answers": {"country": "Ardane"}}',
        '{"name": "Tashu", "type": "city", "samples": {"country": ["Ardane"]}}',
        '{"name": "Tashu", "type": "city", "popularity": "big"}',
        '{"name": "Tashu", "type": "city", "popularity": true}',
        '{"name": "Tashu", "type": "city", "popularity": NaN}',
        '{"name": "Tashu", "type": "city", "name_tokens": 0}',
        '{"name": "Ta\\nshu", "type": "city"}',
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path, bad):
    path = write(tmp_path / "e.jsonl", GOOD, "", bad)
    with pytest.raises(FileFormatError, match="line 3") as caught:
        load_entities(path)
    assert caught.value.expected
    assert caught.value.exit_code == 2


def test_a_good_file_is_read_and_round_trips(tmp_path):
    facts = (
        '{"name": "São Tomé {x}", "type": "city", "facts": {"country": "Ardane"}, "aliases": ["ST"], "seen": "never"}'
    )
    found = load_entities(write(tmp_path / "e.jsonl", GOOD, "", facts))
    assert [e.key for e in found] == ["city:Velmora", "city:São Tomé {x}"]
    assert found[1].facts == {"country": ["Ardane"]}, "one answer as a text is a list of one"
    save_entities(found, tmp_path / "again.jsonl")
    assert load_entities(tmp_path / "again.jsonl") == found


def test_gzip_is_read(tmp_path):
    path = tmp_path / "e.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert load_entities(path)[0].name == "Velmora"


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "e.jsonl").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(FileFormatError):
        load_entities(tmp_path / "e.jsonl")


def test_missing_file_lists_its_neighbours(tmp_path):
    write(tmp_path / "entities.jsonl", GOOD)
    with pytest.raises(MissingFileError) as caught:
        load_entities(tmp_path / "entitys.jsonl")
    assert "entities.jsonl" in str(caught.value.expected)


def test_labels_are_required_where_they_are_needed(tmp_path):
    path = write(tmp_path / "e.jsonl", GOOD, '{"name": "Tashu", "type": "city"}')
    assert load_entities(path)[1].label is None
    with pytest.raises(FileFormatError, match="line 2"):
        load_entities(path, need_labels=True)


def test_empty_files_and_duplicates_are_refused(tmp_path):
    with pytest.raises(EntityError):
        load_entities(write(tmp_path / "empty.jsonl", "", "  "))
    with pytest.raises(EntityError) as caught:
        load_entities(write(tmp_path / "twice.jsonl", GOOD, GOOD))
    assert "city:Velmora" in str(caught.value.got)


def test_the_same_name_in_two_types_is_no_duplicate(tmp_path):
    found = load_entities(write(tmp_path / "e.jsonl", GOOD, GOOD.replace('"city"', '"person"')))
    with pytest.raises(EntityError) as caught:
        find_entity(found, "Velmora")
    assert caught.value.expected == "city:Velmora or person:Velmora"
    assert find_entity(found, "person:Velmora").type == "person"
    assert find_entity(found, "city:Velmora").type == "city"


def test_an_unknown_name_lists_the_nearest_first():
    entities = [Entity(n, "city") for n in ("Dunmere", "Velmora", "Tashu", "Kestrin", "Quillport")]
    with pytest.raises(EntityError) as caught:
        find_entity(entities, "Velmorra")
    assert (caught.value.got, caught.value.field) == ("Velmorra", "forget")
    assert str(caught.value.expected).startswith("Velmora, ")


def test_a_name_with_a_colon_is_found_by_itself():
    entities = [Entity("Part: Two", "film"), Entity("Two", "Part")]
    assert find_entity(entities, "Part: Two").type == "film"


def test_saved_rows_are_json_with_letters_as_they_are(tmp_path):
    save_entities([Entity("Łódź", "city")], tmp_path / "e.jsonl")
    text = (tmp_path / "e.jsonl").read_text(encoding="utf-8")
    assert "Łódź" in text
    assert json.loads(text) == {"name": "Łódź", "type": "city", "facts": {}}


# ------------------------------------------------------------------------------------------------- tables, duplicates
CSV = """\ufeffname,type,aliases,popularity,country,river
Velmora,city,Old Velmora; Vel,"12,000",Ardane;Ardania,Ost
"Halle (Saale), the",city,,,Borovia,

Tashu,person,,0,,
"""


def test_a_table_is_read_like_json_lines(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text(CSV, encoding="utf-8")
    found = load_entities(path)
    assert found == [
        Entity(
            "Velmora",
            "city",
            {"country": ["Ardane", "Ardania"], "river": ["Ost"]},
            ["Old Velmora", "Vel"],
            popularity=12000.0,
        ),
        Entity("Halle (Saale), the", "city", {"country": ["Borovia"]}),
        Entity("Tashu", "person", popularity=0.0),
    ]
    save_entities(found, tmp_path / "e.jsonl")
    assert load_entities(tmp_path / "e.jsonl") == found
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    assert load_entities(tmp_path / "e.csv.gz") == found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name,country\nA,B\n", "first line"),
        ("name,type,type\nA,b,c\n", "first line"),
        ("name,type,\nA,b,c\n", "first line"),
        ("", "first line"),
        ("name,type\nA,city\nB,city,extra\n", "line 3"),
        ("name,type\nA,city\nB\n", "line 3"),
        ("name,type\nA,city\n,city\n", "line 3"),
        ("name,type,popularity\nA,city,many\n", "line 2"),
        ('name,type,country\n"A\nB",city,C\n', "line 3"),  # a name over two lines
        ('name,type\nA,"city"x\n', "line 2"),
    ],
)
def test_a_bad_table_is_named_by_its_line(tmp_path, text, line):
    path = tmp_path / "e.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=line):
        load_entities(path)


def test_a_hub_dataset_has_the_same_columns(monkeypatch):
    rows = [
        {"name": "Velmora", "type": "city", "aliases": ["Vel"], "country": "Ardane", "founded": 1203, "river": None},
        {"name": "Tashu", "type": "city", "popularity": 5, "country": ["Ardane", "Borovia"]},
    ]
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda name, **given: asked.append((name, given)) or rows)
    found = load_entities("org/cities")
    assert asked == [("org/cities", {"split": "train", "streaming": True})]
    assert found[0] == Entity("Velmora", "city", {"country": ["Ardane"], "founded": ["1203"]}, ["Vel"])
    assert found[1] == Entity("Tashu", "city", {"country": ["Ardane", "Borovia"]}, popularity=5.0)
    rows.append({"name": None, "type": "city"})
    with pytest.raises(FileFormatError, match="row 3 of 'org/cities'"):
        load_entities("org/cities")


def test_duplicates_by_rule(tmp_path):
    facts = '{"country": ["Borovia"], "river": ["Ost"]}'
    second = f'{{"name": "Velmora", "type": "city", "facts": {facts}, "popularity": 7, "label": "known"}}'
    path = write(tmp_path / "e.jsonl", GOOD, '{"name": "Tashu", "type": "city"}', second)
    with pytest.raises(EntityError, match="line 1 of .* and line 3"):
        load_entities(path, duplicates="error")
    first, merged = (load_entities(path, duplicates=rule)[0] for rule in ("first", "merge"))
    assert (first.facts, first.popularity) == ({"country": ["Ardane"]}, None)
    assert merged.facts == {"country": ["Ardane", "Borovia"], "river": ["Ost"]}
    assert merged.popularity == 7.0
    assert [e.name for e in load_entities(path, duplicates="merge")] == ["Velmora", "Tashu"]
    write(path, GOOD, second.replace('"known"', '"unknown"'))
    with pytest.raises(EntityError, match="two labels"):
        load_entities(path, duplicates="merge")
    assert set(DUPLICATES) == {"error", "first", "merge"}


def test_label_files_of_before_are_read(tmp_path):
    old = GOOD.replace('"label"', '"answers": {"country": ["India."]}, "label"')
    found = load_entities(write(tmp_path / "l.jsonl", old), need_labels=True)[0]
    assert (found.answers, found.samples, found.popularity, found.name_tokens) == (
        {"country": ["India."]},
        {},
        None,
        None,
    )
