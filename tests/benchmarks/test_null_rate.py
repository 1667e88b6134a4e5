"""How often never-known groups are outside: the share, its interval, and what belongs to a kind of place."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks.audit import null_rate
from benchmarks.audit.null_rate import KINDS, Draw, draws_of, table


def test_the_table_counts_groups_outside_by_sort_and_kind():
    inside, outside = dict.fromkeys(KINDS, 0.5), dict.fromkeys(KINDS, 0.5) | {"whole name": 0.05}
    draws = [Draw("drawn", seed, outside if seed == 0 else inside) for seed in range(4)]
    draws += [Draw("left out", 0, dict.fromkeys(KINDS, 0.051))]
    head, _, drawn, left_out = ([c.strip() for c in line.strip("| ").split("|")] for line in table(draws).splitlines())
    assert drawn[:3] == ["drawn", "4", "4"] and left_out[:3] == ["left out", "1", "1"]
    shares = dict(zip(head[3:], (float(cell.split()[0]) for cell in drawn[3:]), strict=True))
    assert shares == {**dict.fromkeys(KINDS, 0.0), "whole name": pytest.approx(0.25)}, "0.05 is outside, at the level"
    assert all(cell.startswith("0.000 (0.000 to ") for cell in left_out[3:]), "0.051 is inside"


def test_every_place_is_of_one_kind():
    places = (
        "layers.1",
        "layers.1, SAE error",
        "layers.1, name token -1",
        "layers.0, whole name",
        "layers.2, end of question",
    )
    kinds = [[k for k, belongs in KINDS.items() if k != "all places" and belongs(place)] for place in places]
    assert all(len(found) == 1 for found in kinds), kinds


def test_a_worlds_draws_are_kept_and_made_anew_when_others_are_asked_for(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(null_rate, "opened", lambda *given: made.append(given) or (None, None))
    monkeypatch.setattr(null_rate, "drawn_groups", lambda *given: [Draw("drawn", 3, {"all places": 0.2})])
    monkeypatch.setattr(null_rate, "left_out_groups", lambda *given: [Draw("left out", 3, {"all places": 0.7})])
    args = Namespace(draws=1, requests=1, permutations=9)
    first = draws_of(3, tmp_path, tmp_path, args)
    assert draws_of(3, tmp_path, tmp_path, args) == first and len(made) == 1
    draws_of(3, tmp_path, tmp_path, Namespace(draws=2, requests=1, permutations=9))
    assert len(made) == 2
