"""`wb import-sae` and `wb compare-saes` from the outside: JSON, tables, refusals, and what is left on disk."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from cli.group import load_command
from sae_train.saes import build_sae
from sae_train.saes.comparison import MAX_HUNGARIAN, TWIN_COSINE
from sae_train.saes.interop import load_sae, save_sae

pytestmark = [
    pytest.mark.xdist_group("sae_lens"),  # one process imports it, which takes seconds
    pytest.mark.filterwarnings("ignore"),  # SAELens' own imports
]
D_IN, D_SAE, K = 48, 96, 8


@pytest.fixture
def sparsify(tmp_path):
    """A sparsify folder that reads layers.0."""
    folder = tmp_path / "layers.0"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (D_SAE, D_IN), "encoder.bias": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    save_file({n: torch.randn(*s, generator=generator) for n, s in shapes.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": D_IN, "num_latents": D_SAE, "k": K}))
    return folder


@pytest.fixture
def acts(make_store):
    """A store of layers.0."""
    return make_store(torch.randn(200, D_IN, generator=torch.Generator().manual_seed(0)))


def _write(folder, *, hook_point="layers.0", d_in=D_IN, change=lambda sae: None):
    sae = build_sae("topk", d_in, D_SAE, k=K)
    sae.init_weights(torch.zeros(d_in), 0)
    with torch.no_grad():
        sae.b_enc += torch.linspace(-1, 1, D_SAE)  # latents fire at different rates
        change(sae)
    save_sae(sae, folder, hook_point=hook_point, metadata={})
    return folder


def _half_of_it(sae):
    """Turn the second half of the latents into others, then move everyone three places on."""
    others = torch.randn(D_SAE // 2, D_IN, generator=torch.Generator().manual_seed(1))
    sae.W_dec[D_SAE // 2 :] = torch.nn.functional.normalize(others)
    for tensor, axis in ((sae.W_dec, 0), (sae.W_enc, 1), (sae.b_enc, 0)):
        tensor.copy_(tensor.roll(3, axis))


@pytest.fixture
def saes(tmp_path):
    """An SAE, and another that shares half of its latents."""
    return _write(tmp_path / "one"), _write(tmp_path / "other", change=_half_of_it)


def test_an_import_is_an_sae_like_ours(wb, acts, sparsify, tmp_path):
    outcome = wb("import-sae", sparsify, "--out", tmp_path / "out", "--model-name", "fact-world", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["format"], found["architecture"], found["k"], found["d_sae"]) == ("sparsify", "topk", K, D_SAE)
    assert (found["hook_point"], found["model_name"]) == ("layers.0", "fact-world")
    assert "differ in length" in outcome.err
    quality = wb("eval-sae", "--sae", tmp_path / "out", "--activations", acts, "--json")
    assert quality.code == 0, quality.err
    assert json.loads(quality.out)["l0"] <= K
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "cfg.json",
        "config.json",
        "run.json",
        "sae_weights.safetensors",
    ]
    table = wb("import-sae", sparsify, "--out", tmp_path / "out", "--overwrite")
    assert table.code == 0 and "sparsify" in table.out and not table.out.startswith("{")


def test_our_own_folder_comes_back_bit_by_bit(wb, saes, tmp_path):
    outcome = wb("import-sae", saes[1], "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["notes"] == []
    weights = "sae_weights.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (saes[1] / weights).read_bytes()
    assert load_sae(tmp_path / "out").hook_point == "layers.0"


def test_bad_imports(wb, sparsify, tmp_path, monkeypatch):
    import sae_lens.loading.pretrained_saes_directory as directory

    monkeypatch.setattr(directory, "get_pretrained_saes_directory", dict)  # reading the real one takes seconds
    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"a": object}))
    torch.save({"encoder.weight": torch.ones(3, 3)}, tmp_path / "other.pt")
    (tmp_path / "picture.npz").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    (tmp_path / "file").touch()
    before = sorted(p.name for p in tmp_path.rglob("*"))
    out = ("--out", tmp_path / "out")
    for words, said in (
        ((tmp_path / "layers.3", *out), "nearest: layers.0"),
        ((tmp_path / "bad.pt", *out), "tensors only"),
        ((tmp_path / "other.pt", *out), "encoder.weight"),
        ((tmp_path / "picture.npz", *out), "npz"),
        (("gemma-scope:layer_1", *out), "no release 'gemma-scope'"),
        ((sparsify, *out, "--hook-point", "layer.2"), "layer.2 (--hook-point)"),
        ((sparsify, *out, "--k", 9), "--k"),
        ((sparsify, *out, "--k", 0), "0"),
        ((sparsify, *out, "--unit-norm"), "--unit-norm"),
        ((sparsify, "--out", tmp_path / "file" / "out"), "is a file"),
        ((sparsify, "--out", sparsify), "--overwrite"),
        ((sparsify, "--out", sparsify, "--overwrite"), "would take the place of what is read"),
        ((sparsify,), "--out"),
        (("--out", tmp_path / "out"), "SOURCE"),
    ):
        outcome = wb("import-sae", *words, "--json")
        assert outcome.code == 2, (words, outcome.code, outcome.err)
        assert outcome.out == "" and "Traceback" not in outcome.err
        assert said in outcome.err, outcome.err
        assert sorted(p.name for p in tmp_path.rglob("*")) == before, "nothing is written"


def test_a_full_disk_is_seen_before(wb, sparsify, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    outcome = wb("import-sae", sparsify, "--out", tmp_path / "out")
    assert outcome.code == 2 and "1 MiB free" in outcome.err
    assert not (tmp_path / "out").exists()


def test_comparison_of_a_planted_half(wb, acts, saes):
    a, b = saes
    outcome = wb("compare-saes", a, b, "--activations", acts, "--latent", 5, "--latent", 90, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["matching"], found["threshold"], found["d_sae_a"], found["d_sae_b"]) == (
        "hungarian",
        0.7,
        D_SAE,
        D_SAE,
    )
    assert 0.5 <= found["frac_twins_a"] < 0.6
    assert found["chance_frac_twins_a"] == 0
    assert found["chance_mean_cosine"] < 0.4 < found["mean_cosine"]
    shared, own = found["latents"]
    assert (shared["latent"], shared["partner"], shared["has_twin"]) == (5, 8, True), "rolled by three"
    assert shared["cosine"] == pytest.approx(1) and shared["encoder_cosine"] == pytest.approx(1)
    assert (own["latent"], own["has_twin"]) == (90, False)
    assert 0 <= found["frac_twins_a_by_rate"] <= 1 and 0 <= found["frac_twins_b_alive"] <= 1
    assert found["frac_twins_a_by_rate"] != found["frac_twins_a"]


def test_comparison_with_itself_and_as_a_table(wb, saes):
    outcome = wb("compare-saes", saes[0], saes[0], "--latent", 3, "--max-hungarian", 10)
    assert outcome.code == 0, outcome.err
    assert "mutual-nearest" in outcome.out and "has_twin" in outcome.out
    found = json.loads(wb("compare-saes", saes[0], saes[0], "--json").out)
    assert (found["frac_twins_a"], found["n_pairs"]) == (1, D_SAE)


def test_different_places_are_said(wb, saes, tmp_path):
    outcome = wb("compare-saes", saes[0], _write(tmp_path / "b", hook_point="layers.1"), "--json")
    assert outcome.code == 0 and "layers.0 and layers.1" in outcome.err


def test_bad_comparisons(wb, saes, acts, sparsify, tmp_path):
    one, other = saes
    narrow = _write(tmp_path / "narrow", d_in=32)
    elsewhere = _write(tmp_path / "elsewhere", hook_point="layers.3")
    (tmp_path / "junk.h5").write_bytes(b"junk")
    for words, said in (
        ((one, tmp_path / "none"), "none"),
        ((one, sparsify), "cfg.json"),
        ((one, narrow), "32"),
        ((one, other, "--threshold", 1.5), "--threshold"),
        ((one, other, "--latent", D_SAE), "0 to 95"),
        ((one, other, "--max-rows", 0), "--max-rows"),
        ((one, other, "--activations", tmp_path / "junk.h5"), "junk.h5"),
        ((one, elsewhere, "--activations", acts), "layers.3"),
        ((one,), "'B'"),
    ):
        outcome = wb("compare-saes", *words, "--json")
        assert outcome.code == 2, (words, outcome.code, outcome.err)
        assert outcome.out == "" and "Traceback" not in outcome.err
        assert said in outcome.err, outcome.err


def test_defaults_are_those_of_the_library():
    defaults = {p.name: p.default for p in load_command("compare-saes").params}
    assert (defaults["threshold"], defaults["max_hungarian"]) == (TWIN_COSINE, MAX_HUNGARIAN)


@pytest.mark.parametrize("name", ["import-sae", "compare-saes"])
def test_help(name):
    result = CliRunner().invoke(load_command(name), ["--help"])
    assert result.exit_code == 0 and f"wb {name} " in result.output


def test_a_transcoder_and_a_crosscoder_are_trained_measured_and_compared(wb, make_store, tmp_path):
    rows = torch.randn(400, D_IN, generator=torch.Generator().manual_seed(0))
    before = make_store(rows, name="before.h5", also={"layers.0.mlp": rows.roll(1, dims=1)})
    after = make_store(rows + 0.1 * rows.roll(1, dims=1), name="after.h5")
    sizes = (
        "--k",
        K,
        "--expansion",
        1,
        "--tokens",
        2000,
        "--batch-size",
        200,
        "--frac-holdout",
        0.2,
        "--device",
        "cpu",
    )
    train = ("train-sae", "--activations", before, "--hook-point", "layers.0", *sizes)
    across = wb(*train, "--target-hook-point", "layers.0.mlp", "--skip", "--out", tmp_path / "across", "--json")
    both = wb(*train, "--other", after, "--out", tmp_path / "both", "--json")
    assert across.code == both.code == 0, across.err + both.err
    go_on = wb(*train, "--other", after, "--init", tmp_path / "both", "--out", tmp_path / "on", "--json")
    assert go_on.code == 0 and json.loads(go_on.out)["fvu"] < json.loads(both.out)["fvu"], go_on.err

    measure = ("eval-sae", "--activations", before, "--frac-holdout", 0.2, "--json", "--sae")
    for folder, other in (("across", ()), ("both", ("--other", after))):
        found = wb(*measure, tmp_path / folder, *other)
        expected = json.loads((tmp_path / folder / "metrics.json").read_text())["fvu"]
        assert json.loads(found.out)["fvu"] == pytest.approx(expected, rel=1e-6), found.err
    refused = wb(*measure, tmp_path / "both")
    assert refused.code == 2 and "--other" in refused.err

    stores = ("--activations", before, "--other", after)
    found = wb("compare-saes", tmp_path / "both", *stores, "--latent", 3, "--json")
    values = json.loads(found.out)
    kinds = sum(
        values[f"n_{name}"] for name in ("shared", "turned", "only_before", "only_after", "between", "never_fire")
    )
    assert found.code == 0 and kinds == values["d_sae"] == D_IN and values["latents"][0]["latent"] == 3
    table = wb("compare-saes", tmp_path / "both", "--latent", 3)
    assert table.code == 0 and "n_only_after" in table.out and "relative_norm" in table.out
    assert wb("compare-saes", tmp_path / "both", *stores, "--latent", D_IN).code == 2
    assert wb("compare-saes", tmp_path / "both", tmp_path / "both", "--other", after).code == 2
