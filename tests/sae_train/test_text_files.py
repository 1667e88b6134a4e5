"""Files of any editor: byte-order marks, line ends, and characters that only look like line ends."""

from __future__ import annotations

import gzip
import json

import pytest

from sae_train.errors import FileFormatError
from sae_train.text.tokens import load_documents
from sae_train.text_files import lines_of, read_json, read_lines, read_text, read_toml

MARK = b"\xef\xbb\xbf"
SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"  # where str.splitlines parts a text


def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(MARK + f"a{SEPARATORS}b\r\nc\rd\n\ne".encode())
    lines = [f"a{SEPARATORS}b", "c\rd", "", "e"]
    assert lines_of(read_text(path)) == lines
    assert [line.removesuffix("\n") for line in read_lines(path)] == lines
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [*read_lines(packed)] == [*read_lines(path)]
    assert lines_of("") == [] and lines_of("\n") == [""] and lines_of("a\n") == lines_of("a") == ["a"]


def test_a_byte_order_mark_is_no_character(tmp_path):
    for name, data in {"a.json": '{"é": 1}', "a.toml": '"é" = 1\r\n', "a.txt": "é"}.items():
        (tmp_path / name).write_bytes(MARK + data.encode())
    assert read_json(tmp_path / "a.json") == read_toml(tmp_path / "a.toml", what="the table") == {"é": 1}
    assert read_text(tmp_path / "a.txt") == "é"


def test_what_is_not_text_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes("Zürich".encode("latin-1"))
    for read in (read_text, read_json, lambda p: list(read_lines(p)), lambda p: read_toml(p, what="x")):
        with pytest.raises(FileFormatError, match=r"a\.json"):
            read(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(FileFormatError) as caught:
        read_json(path, expected="a list")
    assert caught.value.expected == "a list"


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz", "a.txt.gz"])
def test_documents_of_any_editor(tmp_path, name):
    texts = [f"one{SEPARATORS}end", "two\nlines"]
    written = (
        [json.dumps({"text": t}, ensure_ascii=False) for t in texts] if "jsonl" in name else [texts[0], "", texts[1]]
    )
    data = MARK + "\n".join(written).replace("\n", "\r\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert [d.text for d in load_documents(str(tmp_path / name))] == texts


def parquet(path, values, kind=None):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(values, kind)}), path)
    return str(path)


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "large_binary"])
def test_a_column_of_bytes_is_text(tmp_path, kind):
    import pyarrow

    values = ["é 東京", None, " ", "b"]
    raw = values if "string" in kind else [v and v.encode() for v in values]
    path = parquet(tmp_path / "a.parquet", raw, getattr(pyarrow, kind)())
    assert [d.text for d in load_documents(path)] == ["é 東京", "b"]


@pytest.mark.parametrize(
    ("values", "got"),
    [([None, [1]], "list"), ([None, {"a": "b"}], "dict"), ([None, 1.5], "float"), ([None, b"\xff"], "utf-8")],
)
def test_a_column_of_anything_else_is_refused_by_row(tmp_path, values, got):
    with pytest.raises(FileFormatError, match=r"row 2 of .*a\.parquet") as caught:
        list(load_documents(parquet(tmp_path / "a.parquet", values)))
    assert got in str(caught.value.got)


def test_hub_rows_are_read_by_the_same_rule(monkeypatch):
    rows = [{"text": "one"}, {"text": None}, {"text": b"two"}, {"text": 3}]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows[:3])
    assert [d.text for d in load_documents("org/texts")] == ["one", "two"]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    with pytest.raises(FileFormatError, match="row 4 of 'org/texts'"):
        list(load_documents("org/texts"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: [{"body": "one"}])
    with pytest.raises(FileFormatError, match="no column 'text'"):
        list(load_documents("org/texts"))


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "é": 2, "é": 3}}]'])
def test_a_key_given_twice_is_refused(tmp_path, text):
    """Readers differ in which of the two they take; an object in another may have the same keys."""
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError) as caught:
        read_json(tmp_path / "a.json")
    assert "a key given twice: " in str(caught.value)
    (tmp_path / "b.json").write_text('{"a": {"a": 1}, "b": {"a": 1}}', encoding="utf-8")
    assert read_json(tmp_path / "b.json") == {"a": {"a": 1}, "b": {"a": 1}}
