"""The front door and the command: tables, the folder, what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from features import LatentBrowser, browse
from features.config import BrowseConfig
from sae_train.errors import ConfigError, HookPointError, OutputExistsError, ShapeError
from sae_train.run.progress import silent
from sae_train.saes import build_sae


@pytest.fixture(scope="module")
def world_browser(world_lm, world_sae, world_store):
    return browse(world_sae, world_store, lm=world_lm, other=world_sae, n_sampled=4, progress=silent)


def test_the_table_says_what_the_records_do(world_browser):
    table = world_browser.table()
    assert len(table) == world_browser.n_latents and (table["twin"] == table.index).all() and table["has_twin"].all()
    words = world_browser.words()
    for record in world_browser.records(0, 30):
        row = table.loc[record.latent]
        assert (row.n_fired, row["rate"], row["max"]) == (record.n_fired, record.rate, record.max)
        assert record.n_fired == sum(record.counts)
        best = record.top[0]
        assert row.token == words[best.token_ids[best.peak]] and best.value == record.max
        assert row.promoted == words[record.promoted[0].number]
        assert record.latent not in [r.number for r in record.similar]
        examples = world_browser.examples(record.latent)
        assert len(examples) == len(record.top) + len(record.sampled)
        assert (np.diff(examples.loc[examples.kind == "sampled", "group"].astype(int)) >= 0).all()
    shown = world_browser._repr_html_()
    assert "Those that fire most" in shown and "n_latents" in shown


def test_entity_contexts_are_left_out(world_browser, world_store):
    from sae_train.activations.store import ActivationStore

    with ActivationStore(world_store) as store:
        n_text = int((store.row_field("from_entity") == 0).sum())
        assert world_browser.n_tokens == n_text < store.n_rows


def test_paths_and_objects_give_the_same_and_nothing_is_left(planted, tmp_path):
    path, _, _, sae = planted()
    sae.save(tmp_path / "sae")
    before = sorted(tmp_path.iterdir())
    first, second = (browse(s, p, progress=silent) for s, p in ((sae, path), (str(tmp_path / "sae"), str(path))))
    assert sorted(tmp_path.iterdir()) == before and isinstance(first, LatentBrowser)
    np.testing.assert_array_equal(first.sampled.row, second.sampled.row)
    assert first.table().equals(second.table())
    other = browse(sae, path, seed=1, progress=silent)
    assert not np.array_equal(first.sampled.row, other.sampled.row)
    np.testing.assert_array_equal(first.top.row, other.top.row)


def test_the_folder_is_whole_and_is_not_replaced_unasked(planted, tmp_path):
    path, _, _, sae = planted()
    out = tmp_path / "browser"
    found = browse(sae, path, out=out, export=True, n_explained=2, progress=silent)
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    data = {f"data/{n}.js" for n in ("index", "words", "latents-0000")}
    assert names == {"index.html", "run.json", "config.json", "explain.json", "neuronpedia/batch-0.json", *data}
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["ended"] and record["result"] == found.summary() and record["inputs"]["sae_hash"]
    assert BrowseConfig(**json.loads((out / "config.json").read_text(encoding="utf-8"))) == found.config
    with pytest.raises(OutputExistsError):
        browse(sae, path, out=out, progress=silent)
    found.save(out, overwrite=True, progress=silent)
    assert not (out / "neuronpedia").exists() and list(tmp_path.glob("browser*")) == [out]


def test_what_does_not_fit_is_refused(planted, world_lm, world_sae, world_store):
    path, _, _, sae = planted()
    with pytest.raises(HookPointError):
        browse(world_sae, path, progress=silent)
    wide = build_sae("relu", 9, 4)
    wide.hook_point = "layers.0"
    with pytest.raises(ShapeError):
        browse(wide, path, progress=silent)
    with pytest.raises(ShapeError):
        browse(sae, path, other=wide, progress=silent)
    with pytest.raises(ConfigError, match="n_tops"):
        browse(sae, path, n_tops=3, progress=silent)
    with pytest.raises(ConfigError, match="latent"):
        browse(sae, path, progress=silent).record(8)


@pytest.mark.slow
def test_the_command(wb, wb_files, tmp_path):
    given = (wb_files.sae, "--activations", wb_files.acts)
    out = tmp_path / "browser"
    done = wb("features", *given, "--model", "fact-world", "--n-explained", 2, "--out", out, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["n_latents"] == 192 and found["n_tokens"] < 4000 and found["hook_point"] == "layers.2"
    requests = json.loads((out / "explain.json").read_text(encoding="utf-8"))
    answers = [{"index": r["index"], "explanation": "a name"} for r in requests]
    (tmp_path / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    more = ("--answers", tmp_path / "answers.json", "--export", "--overwrite")
    done = wb("features", *given, *more, "--out", out, "--json")
    assert done.code == 0 and json.loads(done.out)["n_explained"] == 2, done.err
    assert len(json.loads((out / "score.json").read_text(encoding="utf-8"))) == 2
    done = wb("features", out / "neuronpedia", "--out", tmp_path / "again", "--json")
    assert done.code == 0 and json.loads(done.out)["n_latents"] == 192, done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--activations"),
        (("--activations", "acts", "--n-top", 0), "--n-top"),
        (("--activations", "acts", "--other", "acts"), "--other"),
        (("--activations", "labels"), "HDF5"),
        (("--activations", "acts", "--answers", "labels"), "JSON"),
        (("--activations", "acts", "--model", "tiny"), "--model"),
    ],
)
def test_bad_input_ends_in_exit_code_2_and_leaves_nothing(wb, wb_files, tiny_llama_dir, tmp_path, words, said):
    paths = {"acts": wb_files.acts, "labels": wb_files.labels, "tiny": tiny_llama_dir}
    out = tmp_path / "browser"
    done = wb("features", wb_files.sae, *(paths.get(w, w) for w in words), "--out", out)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err and done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_defaults_are_those_of_the_config():
    from cli.group import load_command

    given = load_command("features").make_context("wb", [], resilient_parsing=True).params
    config = asdict(BrowseConfig())
    assert {k: given[k] for k in config} == config
