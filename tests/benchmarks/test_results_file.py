"""The results file of a benchmark of SAEs: what is kept, and that other sizes are refused."""

from __future__ import annotations

import json

import pytest

from benchmarks.saes.results_file import ResultsFile, options


def test_runs_are_there_again_and_other_sizes_are_refused(tmp_path, capsys):
    parser = options("What it measures.")
    args = parser.parse_args(["--out", str(tmp_path / "a" / "run")])
    assert (args.seeds, args.small, args.docs) == ([0, 1, 2], False, None)
    results = ResultsFile(parser, args.out, {"rows": 5})
    assert not results.path.exists(), "nothing is written before something is measured"
    results.keep({"zipf/relu/0": {"fvu": 0.25}})
    results.keep({"zipf/relu/1": {"fvu": 0.5}})
    assert "zipf/relu/1 {'fvu': 0.5}" in capsys.readouterr().err
    again = ResultsFile(parser, args.out, {"rows": 5})
    assert again.runs == {"zipf/relu/0": {"fvu": 0.25}, "zipf/relu/1": {"fvu": 0.5}}
    assert again.found == json.loads(results.path.read_text()) and {"date", "torch"} < set(again.found)
    before = results.path.read_bytes()
    with pytest.raises(SystemExit):
        ResultsFile(parser, args.out, {"rows": 6})
    assert "begun with {'rows': 5}" in capsys.readouterr().err and results.path.read_bytes() == before
