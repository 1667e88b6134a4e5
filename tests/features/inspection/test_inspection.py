"""What is said about a file: counts, broken rules, damage, comparison, and the page that shows it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from features.analysis.store import HookPointAnalysis, LatentAnalysis, save_analysis
from features.inspection.inspection import inspect_file
from features.pages import inspection_plots
from features.pages.inspection_page import finding, write_inspection_page
from features.stats.separation import Separation
from sae_train.activations import layout
from sae_train.errors import ConfigError, FileFormatError, SchemaError
from sae_train.intervals import Interval
from sae_train.run.runs import jsonable
from sae_train.storage import h5
from sae_train.storage.checksums import array_checksum

torch.set_num_threads(1)
N = 300
BAD = '<script>alert("x")</script>$&'


def rows(seed: int = 0, n: int = N, d_in: int = 12) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(make_store) -> Path:
    """300 rows of 30 documents at layers.0, every third a last name token, 20 different tokens."""
    fields = {"from_entity": np.arange(N) % 3 == 0, "token_id": np.arange(N) % 20, "position": np.arange(N) % 10}
    return make_store(rows(), **fields)


def edit(path: Path, change) -> None:
    """Change a store and sign it anew, so that only the rules can notice."""
    with h5py.File(path, "r+") as file:
        change(file)
        for name in layout.ROW_FIELDS:
            file[name].attrs[h5.CHECKSUM] = f"{array_checksum(file[name][()]):016x}"
        h5.seal(file)


def set_value(name: str, value: int):
    def change(file) -> None:
        file[name][7] = value

    return change


def shorten_field(file) -> None:
    short = file["position"][:-1]
    del file["position"]
    h5.write_array(file, "position", short, unit="index", axes=("row",))


def set_encoding(file) -> None:
    file["acts/layers.0"].attrs["encoding"] = "bfloat16"


def set_root(key: str, value):
    def change(file) -> None:
        file.attrs[key] = value

    return change


# ------------------------------------------------------------------------------ what is said
def test_counts_and_statistics(store):
    found = inspect_file(store, verify=False)
    assert found.counts == {"rows": N, "tokens": None, "distinct_tokens": 20, "documents": 30, "entity_rows": 100}
    assert set(found.statistics) == {"layers.0"}
    assert (found.latents, found.comparison, found.verified) == ([], None, None)
    assert json.dumps(jsonable(found), allow_nan=False)


def test_a_sound_store_has_no_problems(store):
    found = inspect_file(store, verify=True)
    assert found.verified == len(found.datasets) == 6
    assert (found.damaged, found.violations) == ([], [])
    assert not found.has_problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_value("doc_id", -1), "doc_id: 1 of 300 rows out of range, expected 0 or more"),
        (set_value("position", -3), "position: 1 of 300"),
        (set_value("token_id", -3), "token_id: 1 of 300"),
        (set_value("from_entity", 2), "from_entity: 1 of 300 rows out of range, expected 0 or 1"),
        (set_root("rows_committed", 299), "rows_committed: 299 in a complete store of 300 rows"),
        (set_root("hook_points", '["layers.0", "layers.5"]'), "hook_points: layers.0, layers.5, stored are layers.0"),
        (set_encoding, "acts/layers.0: encoding bfloat16, the store's dtype is float32"),
        (set_root("dtype", "float16"), "acts/layers.0: encoding float32, the store's dtype is float16"),
        (shorten_field, "position: shape (299,), expected (300,)"),
    ],
    ids=lambda v: v.split(",")[0] if isinstance(v, str) else "",
)
def test_a_broken_rule_is_found(store, change, said):
    edit(store, change)
    found = inspect_file(store, verify=True)
    assert found.damaged == []
    assert len(found.violations) == 1 + (change is set_encoding), found.violations
    assert found.violations[0].startswith(said)
    assert found.has_problems


def test_rows_with_nan_break_a_rule(make_store):
    holes = rows()
    holes[3, 2], holes[9, 0] = float("nan"), float("inf")
    path = make_store(holes)
    assert inspect_file(path, verify=True).violations == ["acts/layers.0: 2 of 300 rows with NaN or Inf"]
    without = inspect_file(path, verify=False)
    assert without.violations == [] and without.statistics["layers.0"]["n_nonfinite_rows"] == 2
    assert finding(without) == "2 rows hold NaN or Inf, at layers.0."


def test_content_that_is_not_what_was_written_is_damage(store):
    """The chunk's own checksum is rewritten with it; only the one beside it tells."""
    with h5py.File(store, "r+") as file:
        file["acts/layers.0"][20, 0] += 1
    assert inspect_file(store, verify=True).damaged == ["/acts/layers.0[16:32]"]
    with pytest.raises(FileFormatError, match=r"layers\.0"):
        inspect_file(store, verify=False)


def test_an_unfinished_store_is_described(tmp_path):
    path = tmp_path / "acts.h5"
    attrs = {"hook_points": ["layers.0"], "dtype": "float32", "n_rows": 4, "rows_committed": 0, "complete": False}
    with h5.create(path, layout.SCHEMA, layout.VERSION, attrs) as file:
        layout.write_row_fields(file, lambda _: [np.zeros(4, np.int32)], 4)
        layout.allocate_acts(file, ("layers.0",), 4, 3, "float32")
    found = inspect_file(path, verify=True)
    assert (found.statistics, found.counts, found.violations) == ({}, {}, [])
    assert finding(found) == "This store is not finished."
    assert "nothing was measured" in page(found, tmp_path)


def test_what_nobody_can_describe_is_refused(tmp_path, store):
    for kind, version in (("something", 1), (layout.SCHEMA, 99)):
        path = tmp_path / f"{kind}.h5"
        with h5.create(path, kind, version, {}):
            pass
        with pytest.raises(SchemaError, match="version"):
            inspect_file(path, verify=False)
    with pytest.raises(ConfigError, match="two activation stores"):
        inspect_file(latents(tmp_path), verify=False, against=store)


# ------------------------------------------------------------------------------ two stores
def test_two_stores(store, make_store):
    other = make_store(rows(1), name="b.h5", token_id=np.arange(N) % 20, position=np.arange(N) % 10)
    edit(other, set_root("model", "another"))
    found = inspect_file(store, verify=False, against=other).comparison
    assert found["against"] == str(other)
    assert found["differing_attrs"] == {"model": ["none", "another"]}
    assert found["hook_points"]["layers.0"]["has_same_rows"]
    assert found["hook_points"]["layers.0"]["cka"] < 0.3


def test_tokens_get_their_text_from_their_own_tokenizer_only(store, toy_tokenizer):
    found = inspect_file(store, verify=False, tokenizer=toy_tokenizer)
    tokens = found.statistics["layers.0"]["top_tokens"]
    assert {t["token_id"]: t["text"] for t in tokens} == {i: toy_tokenizer.decode([i]) for i in range(20)}
    edit(store, set_root("tokenizer_hash", "0" * 64))
    with pytest.raises(ConfigError, match="another tokenizer"):
        inspect_file(store, verify=False, tokenizer=toy_tokenizer)


# ------------------------------------------------------------------------------ latents
def latents(folder: Path) -> Path:
    """An analysis of one SAE of eight latents, two of them selected."""
    nothing = {name: np.zeros(8) for name in ("score", "low", "high", "maxmin_known", "maxmin_unknown", "auroc")}
    half = Separation(freq=np.zeros((2, 1, 8)), p_value=np.ones(8), **nothing)
    found = HookPointAnalysis(
        hook_point="layers.2",
        sae="sae",
        sae_hash="3f",
        mining=half,
        heldout=half,
        q_value=np.ones(8),
        general_rate=None,
        mean_active=np.zeros((2, 8)),
        pre_act_mean=np.zeros((2, 8)),
        pre_act_std=np.zeros((2, 8)),
        W_dec=np.zeros((8, 4)),
        selected={"known": [1], "unknown": [5]},
        probe=Interval(0.9, 0.8, 1.0),
        score=Interval(0.8, 0.7, 0.9),
        fvu_at_names=0.2,
    )
    analysis = LatentAnalysis([found], ["a", "b"], ["known", "unknown"], ["x", "x"], np.zeros(2, bool), ["x"], {})
    save_analysis(analysis, folder / "latents.h5")
    return folder / "latents.h5"


def test_an_analysis_is_described(tmp_path):
    found = inspect_file(latents(tmp_path), verify=True)
    assert found.counts == {"known": 1, "unknown": 1, "held_out": 0}
    (entry,) = found.latents
    assert (entry["hook_point"], entry["n_latents"]) == ("layers.2", 8)
    assert (entry["selected_known"], entry["selected_unknown"]) == (1, 1)
    assert not found.has_problems
    assert finding(found) == "2 of 8 latents are selected."
    assert "layers.2" in page(found, tmp_path)


# ------------------------------------------------------------------------------ the page
def page(found, folder: Path) -> str:
    return write_inspection_page(found, folder / "page.html").read_text(encoding="utf-8")


def visible(source: str) -> str:
    """The text of a page without its styles and scripts."""
    bare = re.sub(r"<(style|script)>.*?</\1>", "", source, flags=re.S)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", bare).split()))


@pytest.fixture
def whole(make_store, toy_tokenizer):
    """Everything a page can show: figures, texts of tokens, another store, hostile names."""
    fields = {"from_entity": np.arange(N) % 3 == 0, "token_id": np.arange(N) % 20, "position": np.arange(N) % 10}
    x = rows()
    x[:, 4] += 30
    path, other = make_store(x, **fields), make_store(x + 0.5, name="b.h5", **fields)
    edit(path, set_root("model", BAD))
    return inspect_file(path, verify=True, against=other, tokenizer=toy_tokenizer)


def test_the_page_shows_the_figures_and_is_one_file(whole, tmp_path):
    source = page(whole, tmp_path)
    assert source == page(whole, tmp_path)
    assert source.count("<svg") == source.count('role="img"') == 7  # six and the comparison's
    assert not re.search(r"https?:|//[a-z]|@import|\ssrc=|<link|url\((?!#)", source)
    ids = re.findall(r'\sid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', source):
        assert "".join(target) in ids
    assert not re.search(r"#[0-9a-f]{6}\b(?!-)", "".join(re.findall(r"<svg.*?</svg>", source, flags=re.S)))
    text = visible(source)
    assert "From here to b.h5 a row moves by" in text and "sound" in text
    top = whole.statistics["layers.0"]["massive_dims"][0]
    assert top["dimension"] == 4 and f"{top['times_median']:.2f}" in text
    assert f"{whole.statistics['layers.0']['spectrum']['effective_rank']:.1f}" in text
    assert f"{whole.comparison['hook_points']['layers.0']['mean_shift']:.3f}" in text
    token = whole.statistics["layers.0"]["top_tokens"][0]
    assert f"{token['token_id']} {json.dumps(token['text'], ensure_ascii=False)} {token['n_rows']}" in text
    assert ">nan<" not in source and "None" not in text
    assert source.count("<script>") == 1  # our own
    assert "&lt;script&gt;" in source


def test_a_massive_dimension_is_the_headline(make_store):
    x = rows()
    x[:, 4] += 30
    said = finding(inspect_file(make_store(x), verify=False)).replace("\u00a0", " ")
    assert re.fullmatch(r"Dimension 4 carries 98\.\d % of the squared norm at layers\.0\.", said)
    assert finding(inspect_file(make_store(rows()), verify=False)).startswith("300 rows at 1")


@pytest.mark.parametrize("value", [0.0, 2.5, float("nan")])
def test_pages_of_odd_rows(make_store, tmp_path, value):
    source = page(inspect_file(make_store(torch.full((20, 3), value)), verify=True), tmp_path)
    assert ">nan<" not in source
    assert ("breaks 1 rule" in visible(source).replace("\u00a0", " ")) == (value != value)


def test_problems_stand_on_the_page(store, tmp_path):
    edit(store, set_value("doc_id", -1))
    text = visible(page(inspect_file(store, verify=True), tmp_path))
    assert "doc_id: 1 of 300 rows out of range" in text and "1 problem" in text


def test_two_stores_of_other_rows_on_a_page(store, make_store, tmp_path):
    other = make_store(rows(3, 200) + 1, name="b.h5")
    text = visible(page(inspect_file(store, verify=False, against=other), tmp_path))
    assert "do not hold the same rows" in text and "b.h5 holds other rows" in text


def test_a_wide_store_does_not_make_a_heavy_figure():
    draw = np.random.default_rng(0)
    mean, variance = draw.normal(size=8192), draw.gamma(2, size=8192)
    scatter = inspection_plots.dimension_scatter("a", "h", list(mean), list(variance), [7])
    curve = inspection_plots.variance_curve("b", "h", list(variance))
    assert scatter.count("<use") < 1600
    assert len(curve) < 20_000
