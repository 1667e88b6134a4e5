"""Stations are made once, found again, and gone on with where they were cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_train.errors import FileFormatError
from unlearn.request.stations import RECORD, Workshop, read_record


class Maker:
    """Writes a file; dies before it is written as often as it is told to."""

    def __init__(self, text: str = "made", deaths: int = 0) -> None:
        self.text, self.deaths, self.calls = text, deaths, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "half").write_text("half", encoding="utf-8")
        if self.calls <= self.deaths:
            raise KeyboardInterrupt
        (folder / "whole").write_text(self.text, encoding="utf-8")


def test_a_station_is_made_once_for_the_same_inputs(tmp_path):
    make = Maker()
    first = Workshop(tmp_path).shared("labels", {"model": "a", "seed": 0}, make)
    shop = Workshop(tmp_path)
    assert shop.shared("labels", {"seed": 0, "model": "a"}, make) == first and make.calls == 1
    assert [(v.station, v.is_kept) for v in shop.visits] == [("labels", True)]
    assert first.name.startswith("labels-") and (first / "whole").read_text(encoding="utf-8") == "made"


def test_other_inputs_lie_beside_and_replace_nothing(tmp_path):
    shop, make = Workshop(tmp_path), Maker()
    folders = {shop.shared("labels", {"seed": seed}, make) for seed in range(3)}
    assert len(folders) == make.calls == 3 and all((f / "whole").is_file() for f in folders)
    assert shop.shared("gate", {"seed": 0}, make) not in folders


def test_a_station_that_was_cut_off_is_made_again_where_it_lies(tmp_path):
    make = Maker(deaths=2)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            Workshop(tmp_path).shared("labels", {"seed": 0}, make)
        (folder,) = tmp_path.glob("labels-*")
        record = read_record(folder / RECORD)
        assert record is not None and record["ended"] is None and (folder / "half").is_file()
    shop = Workshop(tmp_path)
    assert shop.shared("labels", {"seed": 0}, make) == folder and make.calls == 3
    assert not shop.visits[0].is_kept and (folder / "whole").is_file()
    Workshop(tmp_path).shared("labels", {"seed": 0}, make)
    assert make.calls == 3


def test_a_station_of_its_own_gives_way_to_other_inputs(tmp_path):
    folder, record = tmp_path / "model", tmp_path / "stations" / "removal.json"
    shop, first, second = Workshop(tmp_path / "work"), Maker("first"), Maker("second")
    shop.own("removal", folder, record, {"name": "a"}, first)
    (folder / "old").write_text("of the first", encoding="utf-8")
    shop.own("removal", folder, record, {"name": "a"}, second)
    assert second.calls == 0 and (folder / "old").is_file()
    shop.own("removal", folder, record, {"name": "b"}, second)
    assert (folder / "whole").read_text(encoding="utf-8") == "second" and not (folder / "old").exists()
    assert [v.is_kept for v in shop.visits] == [False, True, False]


def test_a_file_that_is_no_record_is_refused(tmp_path):
    (tmp_path / RECORD).write_text('{"schema": "another"}', encoding="utf-8")
    with pytest.raises(FileFormatError):
        read_record(tmp_path / RECORD)
    assert read_record(tmp_path / "nothing.json") is None
