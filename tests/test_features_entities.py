"""Entity files: every malformed row is named by its number; namesakes and near misses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from features.entities import Entity, find_entity, load_entities, save_entities
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
        find_entity(entities, "Velmorra", option="--forget")
    assert caught.value.got == "Velmorra (--forget)"
    assert str(caught.value.expected).startswith("Velmora, ")


def test_a_name_with_a_colon_is_found_by_itself():
    entities = [Entity("Part: Two", "film"), Entity("Two", "Part")]
    assert find_entity(entities, "Part: Two").type == "film"


def test_saved_rows_are_json_with_letters_as_they_are(tmp_path):
    save_entities([Entity("Łódź", "city")], tmp_path / "e.jsonl")
    text = (tmp_path / "e.jsonl").read_text(encoding="utf-8")
    assert "Łódź" in text
    assert json.loads(text) == {"name": "Łódź", "type": "city", "facts": {}}
