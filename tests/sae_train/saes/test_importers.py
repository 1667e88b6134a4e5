"""Imported SAEs compute what their source computes: latents and reconstructions on random weights.

Three judges: the formulas of the sources written out here, SAELens on its own folders, and dictionary_learning and
sparsify themselves where they are installed (`pip install --no-deps dictionary-learning eai-sparsify natsort`).
"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_train.errors import ConfigError, FileFormatError, MissingFileError, ShapeError
from sae_train.saes.importers import IMPORTERS, ImportConfig, import_sae, importer_of, read_source
from sae_train.saes.importers import dictionary_learning as dl
from sae_train.saes.interop import load_sae

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.xdist_group("sae_lens"),  # one process imports it, which takes seconds
    pytest.mark.filterwarnings("ignore"),  # the peers' own imports and pickles
]
D_IN, D_SAE, K = 12, 40, 5
Judge = Callable[[Tensor], tuple[Tensor, Tensor]]


def _draw(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _acts(n: int = 200) -> Tensor:
    return _draw(n, D_IN, seed=99, scale=2.0) + 0.7


def _weights() -> dict[str, Tensor]:
    """Nothing zero, nothing tied, no unit rows: each of these hides a mistake."""
    return {
        "W_enc": _draw(D_IN, D_SAE, seed=1),
        "b_enc": _draw(D_SAE, seed=2, scale=0.5),
        "W_dec": _draw(D_SAE, D_IN, seed=3),
        "b_dec": _draw(D_IN, seed=4),
        "threshold": _draw(D_SAE, seed=5).abs() + 0.2,
    }


def _linear(w: dict[str, Tensor], **biases: Tensor) -> dict[str, Tensor]:
    found = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T, **biases}
    return {name: t.contiguous() for name, t in found.items()}


def _save_ae(folder: Path, tensors: dict[str, Tensor], dict_class: str | None, **trainer: object) -> str:
    folder.mkdir()
    torch.save(tensors, folder / "ae.pt")
    if dict_class is not None:
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": dict_class, **trainer}}))
    return str(folder)


def _save_sparsify(folder: Path, w: dict[str, Tensor], **cfg: object) -> str:
    folder.mkdir(parents=True)
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "sae.safetensors")
    found = {"activation": "topk", "expansion_factor": 32, "num_latents": D_SAE, "k": K, "d_in": D_IN, **cfg}
    (folder / "cfg.json").write_text(json.dumps({n: v for n, v in found.items() if v is not None}))
    return str(folder)


def _save_npz(path: Path, w: dict[str, Tensor], **more: Any) -> str:
    np.savez(path, **{name: t.numpy() for name, t in w.items()}, **more)
    return str(path)


def _topk(pre_acts: Tensor) -> Tensor:
    kept = pre_acts.relu().topk(K, dim=1)
    return torch.zeros_like(pre_acts).scatter(1, kept.indices, kept.values)


# ------------------------------------------------------------------------------ formulas, written out again
SCALARS = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.6)}
GATED = {"r_mag": _draw(D_SAE, seed=6, scale=0.3), "mag_bias": _draw(D_SAE, seed=7), "gate_bias": _draw(D_SAE, seed=8)}


def _case(name: str, folder: Path) -> tuple[str, Judge]:
    """Write one source; return its path and what it computes."""
    w = _weights()
    centred = lambda x: (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]  # noqa: E731
    as_it_is = lambda x: x @ w["W_enc"] + w["b_enc"]  # noqa: E731
    above = lambda y, t: y.relu() * (y > t)  # noqa: E731
    at = folder / "source"
    own = {n: w[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}

    def gated(x: Tensor) -> Tensor:
        u = (x - w["b_dec"]) @ w["W_enc"]
        return (u + GATED["gate_bias"] > 0) * (GATED["r_mag"].exp() * u + GATED["mag_bias"]).relu()

    def written(tensors: dict[str, Tensor], **trainer: object) -> str:
        return _save_ae(at, tensors, name.split("/")[0], **trainer)

    groups = {"group_sizes": torch.tensor([10, 30])}
    gates = {n: t for n, t in _linear(w).items() if n != "encoder.bias"} | GATED
    cases: dict[str, tuple[Callable[[], str], Callable[[Tensor], Tensor]]] = {
        "sparsify": (lambda: _save_sparsify(at, w), lambda x: _topk(centred(x))),
        "gemma-scope": (lambda: _save_npz(folder / "x.npz", w), lambda x: above(as_it_is(x), w["threshold"])),
        "AutoEncoder": (lambda: written(_linear(w, bias=w["b_dec"])), lambda x: centred(x).relu()),
        "AutoEncoderNew": (
            lambda: written(_linear(w, **{"decoder.bias": w["b_dec"]})),
            lambda x: as_it_is(x).relu(),
        ),
        "AutoEncoderTopK": (
            lambda: written(_linear(w, b_dec=w["b_dec"], **SCALARS), k=K),
            lambda x: _topk(centred(x)),
        ),
        "BatchTopKSAE": (
            lambda: written(_linear(w, b_dec=w["b_dec"], **SCALARS), k=K),
            lambda x: above(centred(x), 0.6),
        ),
        "BatchTopKSAE/unmeasured": (
            lambda: written(_linear(w, b_dec=w["b_dec"], **{**SCALARS, "threshold": torch.tensor(-1.0)})),
            lambda x: centred(x).relu(),
        ),
        "MatryoshkaBatchTopKSAE": (lambda: written({**own, **SCALARS, **groups}), lambda x: above(centred(x), 0.6)),
        "JumpReluAutoEncoder": (lambda: written(w), lambda x: above(as_it_is(x), w["threshold"])),
        "JumpReluAutoEncoder/centred": (
            lambda: written(w, apply_b_dec_to_input=True),
            lambda x: above(centred(x), w["threshold"]),
        ),
        "GatedAutoEncoder": (lambda: written({**gates, "decoder_bias": w["b_dec"]}), gated),
    }
    write, encode = cases[name]

    def judge(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = encode(x)
        return latents, latents @ w["W_dec"] + w["b_dec"]

    return write(), judge


CASES = [
    *("sparsify", "gemma-scope", "AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE"),
    *("BatchTopKSAE/unmeasured", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder", "JumpReluAutoEncoder/centred"),
    "GatedAutoEncoder",
]


def _assert_same(folder: Path, judge: Judge, *, scaled: bool = False) -> None:
    """Compare our reading of an imported folder, and SAELens' reading of it, with the source."""
    from sae_lens import SAE

    acts, ours, theirs = _acts(), load_sae(folder), SAE.load_from_disk(str(folder), device="cpu")
    with torch.no_grad():
        latents, recon = judge(acts)
        fired = (latents != 0).float().mean()
        assert 0.02 < fired < 0.9, f"a judge of which {fired:.2f} fires decides nothing"
        for encode, decode in ((ours.encode, ours), (theirs.encode, theirs)):
            torch.testing.assert_close(decode(acts), recon, rtol=1e-4, atol=2e-4)
            if not scaled:
                torch.testing.assert_close(encode(acts), latents, rtol=1e-4, atol=1e-4)


def _import(source: str, out: Path, **config: Any) -> dict[str, Any]:
    return import_sae(source, out=out, **{"hook_point": "layers.3", **config}).metrics


@pytest.mark.parametrize("name", CASES)
def test_every_source_computes_its_formula(tmp_path, name):
    source, judge = _case(name, tmp_path)
    found = _import(source, tmp_path / "out", model_name="toy")
    expected = name if name in IMPORTERS else "dictionary_learning"
    assert (found["format"], found["d_in"], found["d_sae"], found["hook_point"]) == (expected, D_IN, D_SAE, "layers.3")
    _assert_same(tmp_path / "out", judge)
    loaded = load_sae(tmp_path / "out")
    assert loaded.hook_point == "layers.3" and loaded.cfg["metadata"]["model_name"] == "toy"
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["ended"] and record["command"] == "import-sae" and len(record["inputs"]["sha256"]) == 64


@pytest.mark.parametrize("name", [c for c in CASES if c not in ("sparsify", "AutoEncoderTopK")])
def test_unit_norm_scales_latents_and_keeps_the_function(tmp_path, name):
    source, judge = _case(name, tmp_path)
    found = _import(source, tmp_path / "out", unit_norm=True)
    assert (found["decoder_norm_low"], found["decoder_norm_high"]) == pytest.approx((1, 1), abs=1e-5)
    _assert_same(tmp_path / "out", judge, scaled=True)
    norms = _weights()["W_dec"].norm(dim=1)
    assert (norms - 1).abs().max() > 0.5, "or there was nothing to do"
    sae = load_sae(tmp_path / "out")
    torch.testing.assert_close(sae.encode(_acts()), judge(_acts())[0] * norms, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("name", ["sparsify", "AutoEncoderTopK"])
def test_unit_norm_of_a_topk_sae_is_refused_unless_its_rows_are(tmp_path, name):
    source, _ = _case(name, tmp_path)
    with pytest.raises(ConfigError, match="unit_norm"):
        _import(source, tmp_path / "out", unit_norm=True)
    w = _weights()
    w["W_dec"] = torch.nn.functional.normalize(w["W_dec"], dim=1)
    _import(_save_sparsify(tmp_path / "unit", w), tmp_path / "out", unit_norm=True)
    assert torch.equal(load_sae(tmp_path / "out").W_dec, w["W_dec"])


# ------------------------------------------------------------------------------ SAELens as the judge
def _saelens_sae(architecture: str, **settings: object) -> Any:
    """A SAELens SAE of random weights."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    sae_class, cfg_class = get_sae_class(architecture)
    place = SAEMetadata(hook_name="blocks.2.hook_mlp_out", model_name="toy")
    sae = sae_class(cfg_class(d_in=D_IN, d_sae=D_SAE, metadata=place, **settings))
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(sae.named_parameters())):
            parameter.copy_(_draw(*parameter.shape, seed=20 + i, scale=0.3 if name.startswith(("r_", "b_")) else 1.0))
            if name == "threshold":
                parameter.abs_()
    return sae


def _judged(sae: Any) -> Judge:
    return lambda x: (sae.encode(x), sae(x))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("standard", {}),
        ("topk", {"k": K, "rescale_acts_by_decoder_norm": False}),
        ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
        ("jumprelu", {}),
        ("gated", {}),
    ],
)
def test_saelens_folders(tmp_path, architecture, settings, centred):
    sae = _saelens_sae(architecture, apply_b_dec_to_input=centred, **settings)
    sae.save_model(tmp_path / "theirs")
    found = _import(str(tmp_path / "theirs"), tmp_path / "out", hook_point=None)
    assert (found["format"], found["hook_point"], found["model_name"]) == ("saelens", "layers.2.mlp", "toy")
    rewritten = [not centred, architecture == "gated", bool(settings.get("rescale_acts_by_decoder_norm"))]
    assert len(found["notes"]) == sum(rewritten)
    _assert_same(tmp_path / "out", _judged(sae))


ARCHITECTURES = [
    ("standard", {}),
    ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ("jumprelu", {}),
    ("gated", {}),
]


def _save_processed(folder: Path, sae: Any, model_name: str = "gpt2-small", **words: object) -> str:
    """Save a SAELens SAE whose activations were those of a model loaded with some words."""
    sae.cfg.metadata.model_from_pretrained_kwargs = words
    sae.cfg.metadata.model_name = model_name
    sae.save_model(folder)
    return str(folder)


@pytest.mark.parametrize("centred_input", [True, False])
@pytest.mark.parametrize(("architecture", "settings"), ARCHITECTURES)
def test_an_sae_of_centred_activations_reads_the_model_as_it_is(tmp_path, architecture, settings, centred_input):
    """The judge is SAELens' SAE on activations minus their mean, which is not zero here and changes every latent."""
    sae = _saelens_sae(architecture, apply_b_dec_to_input=centred_input, **settings)
    source = _save_processed(tmp_path / "theirs", sae, center_writing_weights=True)
    found = _import(source, tmp_path / "out")
    assert any("center_writing_weights folded" in note for note in found["notes"])

    def centred(x: Tensor) -> Tensor:
        return x - x.mean(dim=1, keepdim=True)

    _assert_same(tmp_path / "out", lambda x: _judged(sae)(centred(x)))
    assert not torch.allclose(sae.encode(_acts()), sae.encode(centred(_acts())), atol=0.1)


def test_an_sae_of_centred_activations_is_not_loaded_without_an_import(tmp_path):
    _save_processed(tmp_path / "theirs", _saelens_sae("standard"), center_writing_weights=True)
    with pytest.raises(FileFormatError, match="centred weights") as refused:
        load_sae(tmp_path / "theirs")
    assert "wb import-sae" in str(refused.value.try_)


@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.0.hook_attn_out"])
def test_centring_is_what_transformer_lens_does(tmp_path, hook):
    """The activations come from TransformerLens, with and without its processing; nothing is written out here."""
    import copy

    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 2, "d_model": D_IN, "n_ctx": 16, "d_head": 4, "n_heads": 3, "d_vocab": 30, "d_mlp": 20}
    config = HookedTransformerConfig(**sizes, act_fn="gelu", normalization_type="LN", device="cpu", seed=0)
    plain = HookedTransformer(config)
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(plain.named_parameters())):
            parameter.copy_(_draw(*parameter.shape, seed=60 + i, scale=0.7))
    processed = copy.deepcopy(plain)
    only = {"fold_ln": False, "center_unembed": False, "fold_value_biases": False}
    processed.load_and_process_state_dict(plain.state_dict(), center_writing_weights=True, **only)
    tokens = torch.randint(0, 30, (20, 10), generator=torch.Generator().manual_seed(1))
    read = [m.run_with_cache(tokens)[1][hook].reshape(-1, D_IN).detach() for m in (plain, processed)]
    assert float((read[0] - read[1]).abs().max()) > 0.1, "or there is nothing to fold"
    sae = _saelens_sae("jumprelu")
    _import(_save_processed(tmp_path / "theirs", sae, center_writing_weights=True), tmp_path / "out")
    torch.testing.assert_close(load_sae(tmp_path / "out").encode(read[0]), sae.encode(read[1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model_name", "words", "said"),
    [
        ("gpt2-small", {"center_writing_weights": False, "fold_ln": True, "n_devices": 2}, []),
        ("gemma-2-2b", {"center_writing_weights": True}, ["not folded in: TransformerLens does not centre"]),
        ("pythia-70m", {"revision": "step3000"}, ["loaded with revision = step3000"]),
    ],
)
def test_what_leaves_the_activations_alone_or_cannot_be_folded(tmp_path, model_name, words, said):
    sae = _saelens_sae("standard")
    source = _save_processed(tmp_path / "theirs", sae, model_name, **words)
    found = _import(source, tmp_path / "out")
    assert len(found["notes"]) == len(said) and all(s in n for s, n in zip(said, found["notes"], strict=True))
    _assert_same(tmp_path / "out", _judged(sae))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"normalize_activations": "layer_norm"}, "layer_norm"),
        ({"reshape_activations": "hook_z"}, "hook_z"),
    ],
)
def test_what_saelens_computes_on_the_way_is_refused(tmp_path, settings, said):
    sae = _saelens_sae("standard")
    sae.save_model(tmp_path / "theirs")
    cfg = tmp_path / "theirs" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | settings))
    with pytest.raises(FileFormatError, match=said):
        _import(str(tmp_path / "theirs"), tmp_path / "out")


def test_a_transcoder_is_refused(tmp_path):
    sae = _saelens_sae("transcoder", d_out=D_IN, apply_b_dec_to_input=False)
    sae.save_model(tmp_path / "theirs")
    with pytest.raises(FileFormatError, match="architecture transcoder"):
        _import(str(tmp_path / "theirs"), tmp_path / "out")


@pytest.fixture
def releases(monkeypatch, tmp_path):
    """SAELens with a directory of one release, and a hub of one folder; nothing else of it is replaced."""
    import sae_lens.loading.pretrained_sae_loaders as loaders
    import sae_lens.loading.pretrained_saes_directory as directory
    import sae_lens.saes.sae as saes

    layer = "layer_12/width_16k/average_l0_71"
    release = directory.PretrainedSAELookup(
        release="gemma-scope-toy",
        repo_id="google/gemma-scope-2b-pt-res",
        model="toy",
        conversion_func="gemma_2",
        saes_map={"layer_12/toy": layer},
        expected_var_explained={},
        expected_l0={},
        neuronpedia_id={},
        norm_scaling_factor={},
        config_overrides={"d_in": D_IN, "d_sae": D_SAE},
    )
    for module in (directory, loaders, saes):
        monkeypatch.setattr(module, "get_pretrained_saes_directory", lambda: {release.release: release})
    _saelens_sae("jumprelu").save_model(tmp_path / "hub" / "owner" / "name" / "some")
    (tmp_path / "hub" / release.repo_id / layer).mkdir(parents=True)
    _save_npz(tmp_path / "hub" / release.repo_id / layer / "params.npz", _weights())

    def download(repo_id: str, filename: str, subfolder: str = "", **_options: object) -> str:
        path = tmp_path / "hub" / repo_id / subfolder / filename
        if not path.is_file():
            from huggingface_hub.errors import EntryNotFoundError

            raise EntryNotFoundError(f"no {filename}")
        return str(path)

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    return tmp_path / "hub" / release.repo_id / layer


def test_a_release_and_the_file_behind_it_are_the_same_sae(releases, tmp_path):
    """Gemma Scope through SAELens' loader, and our reading of the same .npz."""
    found = _import("gemma-scope-toy:layer_12/toy", tmp_path / "one", hook_point=None)
    assert (found["format"], found["architecture"], found["hook_point"]) == ("saelens", "jumprelu", "layers.12")
    assert _import(str(releases), tmp_path / "two")["format"] == "gemma-scope"
    one, two = load_sae(tmp_path / "one"), load_sae(tmp_path / "two")
    for name, tensor in one.saelens_tensors().items():
        assert torch.equal(tensor, two.saelens_tensors()[name]), name
    _assert_same(tmp_path / "two", _case("gemma-scope", tmp_path)[1])


def test_a_repository_of_the_hub(releases, tmp_path):
    _import("owner/name:some", tmp_path / "out", hook_point=None)
    _assert_same(tmp_path / "out", _judged(_saelens_sae("jumprelu")))


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("gemma-scop:layer_12/toy", ConfigError, "gemma-scope-toy"),
        ("gemma-scope-toy:layer_13/toy", ConfigError, "layer_12/toy"),
        ("owner/name:other", MissingFileError, "EntryNotFoundError"),
        ("owner/nobody:some", MissingFileError, "owner/nobody:some"),
    ],
)
def test_unknown_releases(releases, tmp_path, source, error, said):
    with pytest.raises(error) as caught:
        _import(source, tmp_path / "out")
    assert source in caught.value.what
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_a_network_the_hub_is_named(tmp_path, monkeypatch):
    import sae_lens.loading.pretrained_sae_loaders as loaders
    import sae_lens.loading.pretrained_saes_directory as directory
    import sae_lens.saes.sae as saes

    for module in (directory, loaders, saes):  # reading the real one takes seconds
        monkeypatch.setattr(module, "get_pretrained_saes_directory", dict)
    with pytest.raises(MissingFileError, match="connection to the Hugging Face hub"):
        _import("owner/name:some", tmp_path / "out")


# ------------------------------------------------------------------------------ the peers themselves
def _peer(package: str, module: str) -> types.ModuleType:
    """Import one module of a library without its __init__, which wants a tracing library and a trainer."""
    if package not in sys.modules:
        spec = find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps dictionary-learning eai-sparsify natsort")
        shell = types.ModuleType(package)
        shell.__path__ = list(spec.submodule_search_locations)
        sys.modules[package] = shell
    return importlib.import_module(f"{package}.{module}")


def _randomise(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(module.named_parameters())):
            parameter.copy_(_draw(*parameter.shape, seed=40 + i, scale=0.3 if name == "r_mag" else 1.0))
            if name == "threshold":
                parameter.abs_()
        for name, buffer in module.named_buffers():
            if name == "threshold":
                buffer.fill_(0.8)


PEERS = {
    "AutoEncoder": ("dictionary", (), {}),
    "AutoEncoderNew": ("dictionary", (), {}),
    "GatedAutoEncoder": ("dictionary", (), {}),
    "JumpReluAutoEncoder": ("dictionary", (), {}),
    "AutoEncoderTopK": ("trainers.top_k", (K,), {}),
    "BatchTopKSAE": ("trainers.batch_top_k", (K,), {}),
    "MatryoshkaBatchTopKSAE": ("trainers.matryoshka_batch_top_k", (K,), {"group_sizes": [10, 30]}),
}


@pytest.mark.parametrize("name", PEERS)
def test_dictionary_learning_itself(tmp_path, name):
    module, args, settings = PEERS[name]
    theirs = getattr(_peer("dictionary_learning", module), name)(D_IN, D_SAE, *args, **settings)
    _randomise(theirs)
    k = {"k": K} if args else {}
    place = {"lm_name": "toy", "layer": 7, "submodule_name": "resid_post_layer_7"}
    source = _save_ae(tmp_path / "theirs", theirs.state_dict(), name, **k, **place)
    found = _import(source, tmp_path / "out", hook_point=None)
    assert (found["hook_point"], found["model_name"]) == ("layers.7", "toy")
    _assert_same(tmp_path / "out", lambda x: (theirs.encode(x), theirs(x)))


def test_dictionary_learnings_own_loader_is_unit_norm(tmp_path):
    theirs = _peer("dictionary_learning", "dictionary").AutoEncoder(D_IN, D_SAE)
    _randomise(theirs)
    source = _save_ae(tmp_path / "theirs", theirs.state_dict(), "AutoEncoder")
    loaded = type(theirs).from_pretrained(Path(source) / "ae.pt")
    _import(source, tmp_path / "out", unit_norm=True)
    _assert_same(tmp_path / "out", lambda x: (loaded.encode(x), loaded(x)))


@pytest.mark.parametrize("normalize", [True, False])
def test_sparsify_itself(tmp_path, normalize):
    config = _peer("sparsify", "config").SparseCoderConfig(num_latents=D_SAE, k=K, normalize_decoder=normalize)
    theirs = _peer("sparsify", "sparse_coder").SparseCoder(D_IN, config)
    _randomise(theirs)
    theirs.save_to_disk(tmp_path / "run" / "layers.5.mlp")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": "toy"}))
    found = _import(str(tmp_path / "run" / "layers.5.mlp"), tmp_path / "out", hook_point=None)
    assert (found["hook_point"], found["model_name"], found["k"]) == ("layers.5.mlp", "toy", K)

    def judge(x: Tensor) -> tuple[Tensor, Tensor]:
        out = theirs(x)
        return torch.zeros(len(x), D_SAE).scatter(1, out.latent_indices, out.latent_acts), out.sae_out

    _assert_same(tmp_path / "out", judge)


# ------------------------------------------------------------------------------ what is there decides
@pytest.mark.parametrize("name", CASES)
def test_detection_is_by_content(tmp_path, name):
    source, _ = _case(name, tmp_path)
    matching = [key for key, module in IMPORTERS.items() if module.matches(source)]
    assert matching == [name if name in IMPORTERS else "dictionary_learning"]


@pytest.mark.parametrize("name", [c for c in CASES if "/" not in c and c not in IMPORTERS])
def test_a_class_is_found_without_its_config_where_only_one_fits(tmp_path, name):
    source, judge = _case(name, tmp_path)
    (Path(source) / "config.json").unlink()
    if "TopK" in name and not name.startswith("Matryoshka"):  # two classes with the same tensors
        with pytest.raises(FileFormatError, match="BatchTopKSAE") as caught:
            _import(f"{source}/ae.pt", tmp_path / "out")
        assert "config.json" in str(caught.value)
        return
    _import(f"{source}/ae.pt", tmp_path / "out")
    _assert_same(tmp_path / "out", judge)


def test_places_in_folder_names():
    from sae_train.saes.importers.sparsify import _hook_point

    names = {"layers.3": "layers.3", "model.layers.3.mlp": "layers.3.mlp", "h.2.attn": "layers.2.self_attn"}
    names |= {"transformer.h.2": "layers.2", "embed_tokens": "embed", "layers.3.mlp.act": None, "sae": None}
    assert {name: _hook_point(name) for name in names} == names


def test_expansion_factor_stands_for_no_num_latents(tmp_path):
    w = {n: t[:, :24] if n == "W_enc" else t[:24] if n in ("b_enc", "W_dec") else t for n, t in _weights().items()}
    source = _save_sparsify(tmp_path / "layers.1", w, num_latents=0, expansion_factor=2)
    assert _import(source, tmp_path / "out", hook_point=None)["d_sae"] == 24


def test_k_from_the_command_line(tmp_path):
    source = _save_sparsify(tmp_path / "layers.1", _weights(), k=None)
    with pytest.raises(ConfigError, match="k=N"):
        _import(source, tmp_path / "out")
    assert _import(source, tmp_path / "out", k=7)["k"] == 7
    for k, case in ((K + 1, "AutoEncoderTopK"), (K + 1, "BatchTopKSAE"), (K, "AutoEncoder"), (K, "gemma-scope")):
        (tmp_path / case).mkdir()
        with pytest.raises(ConfigError, match=r"\(k\b"):
            _import(_case(case, tmp_path / case)[0], tmp_path / "other", k=k)


@pytest.mark.parametrize("name", ["AutoEncoder", "gemma-scope"])
def test_somebody_has_to_say_where_it_reads(tmp_path, name):
    source, _ = _case(name, tmp_path)
    with pytest.raises(ConfigError, match="hook_point"):
        _import(source, tmp_path / "out", hook_point=None)
    with pytest.raises(ConfigError, match="blocks.3.attn.hook_z"):
        _import(source, tmp_path / "out", hook_point="blocks.3.attn.hook_z")
    assert _import(source, tmp_path / "out", hook_point="blocks.3.hook_resid_post")["hook_point"] == "layers.3"


# ------------------------------------------------------------------------------ bad input
class _Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path(_Bomb.target),))


def _break(kind: str, folder: Path) -> str:
    """Write a source that is broken in one way."""
    w, at = _weights(), folder / "source"
    linear = _linear(w, bias=w["b_dec"])
    if kind == "pickle":
        at.mkdir()
        _Bomb.target = str(folder / "exploded")
        (at / "ae.pt").write_bytes(pickle.dumps(_Bomb()))
    elif kind == "object-in-torch":
        at.mkdir()
        _Bomb.target = str(folder / "exploded")
        torch.save({"a": _Bomb()}, at / "ae.pt")
    elif kind == "no-dict":
        _save_ae(at, [torch.ones(2)], "AutoEncoder")  # type: ignore[arg-type]
    elif kind == "dict-of-lists":
        _save_ae(at, {"a": [1]}, "AutoEncoder")  # type: ignore[dict-item]
    elif kind == "torn":
        _save_ae(at, linear, "AutoEncoder")
        (at / "ae.pt").write_bytes((at / "ae.pt").read_bytes()[:-200])
    elif kind == "empty":
        at.mkdir()
        (at / "ae.pt").touch()
    elif kind == "wrong-class":
        _save_ae(at, linear, "JumpReluAutoEncoder")
    elif kind == "unknown-class":
        _save_ae(at, linear, "IdentityDict")
    elif kind == "transposed":
        _save_ae(at, {**linear, "encoder.weight": linear["encoder.weight"].T.contiguous()}, "AutoEncoder")
    elif kind == "vector":
        _save_ae(at, {**linear, "encoder.weight": torch.ones(4)}, "AutoEncoder")
    elif kind == "nan":
        _save_ae(at, {**linear, "bias": torch.full((D_IN,), torch.nan)}, "AutoEncoder")
    elif kind == "odd-k":
        _save_ae(at, _linear(w, b_dec=w["b_dec"], threshold=torch.ones(()), k=torch.ones(2)), "AutoEncoderTopK")
    elif kind == "config":
        _save_ae(at, linear, "AutoEncoder")
        (at / "config.json").write_text("[]")
    elif kind == "objects-in-npz":
        np.savez(folder / "x.npz", W_enc=np.array([{}], dtype=object))
        return str(folder / "x.npz")
    elif kind == "no-npz":
        (folder / "x.npz").write_bytes(b"\x89PNG\r\n")
        return str(folder / "x.npz")
    elif kind == "one-array":
        with (folder / "x.npz").open("wb") as stream:
            np.save(stream, np.ones(3))
        return str(folder / "x.npz")
    elif kind == "npz-of-others":
        return _save_npz(folder / "x.npz", {"W_enc": w["W_enc"]})
    elif kind == "scaled-npz":
        return _save_npz(folder / "x.npz", w, scaling_factor=np.full(D_SAE, 2.0))
    elif kind == "npz-of-text":
        return _save_npz(folder / "x.npz", w, scaling_factor=np.array(["a"]))
    elif kind == "zip":
        with zipfile.ZipFile(folder / "x.npz", "w") as archive:
            archive.writestr("W_enc.npy", "junk")
        return str(folder / "x.npz")
    elif kind in ("transcode", "skip_connection", "signed"):
        return _save_sparsify(at, w, **{kind: True})
    elif kind == "groupmax":
        return _save_sparsify(at, w, activation="groupmax")
    elif kind == "num_latents":
        return _save_sparsify(at, w, num_latents=D_SAE + 1)
    elif kind == "no-d_in":
        return _save_sparsify(at, w, d_in=None)
    elif kind == "big-k":
        return _save_sparsify(at, w, k=D_SAE + 1)
    elif kind == "sparsify-tensors":
        _save_sparsify(at, w)
        tensors = load_file(at / "sae.safetensors")
        save_file({n: t for n, t in tensors.items() if n != "W_dec"}, at / "sae.safetensors")
    elif kind == "sparsify-torn":
        _save_sparsify(at, w)
        (at / "sae.safetensors").write_bytes((at / "sae.safetensors").read_bytes()[:-9])
    elif kind == "sparsify-no-cfg":
        _save_sparsify(at, w)
        (at / "cfg.json").unlink()
    elif kind == "saelens-torn":
        _saelens_sae("standard").save_model(at)
        (at / "sae_weights.safetensors").write_bytes(b"junk")
    elif kind == "saelens-cfg":
        _saelens_sae("standard").save_model(at)
        (at / "cfg.json").write_text("[]")
    return str(at)


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("pickle", FileFormatError, "tensors only"),
        ("object-in-torch", FileFormatError, "tensors only"),
        ("no-dict", FileFormatError, "a list"),
        ("dict-of-lists", FileFormatError, "named tensors"),
        ("torn", FileFormatError, "ae.pt"),
        ("empty", FileFormatError, "ae.pt"),
        ("wrong-class", FileFormatError, "encoder.weight"),
        ("unknown-class", FileFormatError, "IdentityDict"),
        ("transposed", ShapeError, "W_enc"),
        ("vector", ShapeError, "encoder.weight"),
        ("nan", FileFormatError, "NaN or Inf in b_dec"),
        ("odd-k", FileFormatError, "1.0, 1.0"),
        ("config", FileFormatError, "config.json"),
        ("objects-in-npz", FileFormatError, "x.npz"),
        ("no-npz", FileFormatError, "x.npz"),
        ("one-array", FileFormatError, "x.npz"),
        ("npz-of-others", FileFormatError, "threshold"),
        ("scaled-npz", FileFormatError, "scaling_factor"),
        ("npz-of-text", FileFormatError, "scaling_factor"),
        ("zip", FileFormatError, "x.npz"),
        ("transcode", FileFormatError, "transcode = True"),
        ("skip_connection", FileFormatError, "skip_connection"),
        ("signed", FileFormatError, "signed"),
        ("groupmax", FileFormatError, "groupmax"),
        ("num_latents", ShapeError, "41"),
        ("no-d_in", FileFormatError, "d_in"),
        ("big-k", ConfigError, "41"),
        ("sparsify-tensors", FileFormatError, "W_dec"),
        ("sparsify-torn", FileFormatError, "sae.safetensors"),
        ("sparsify-no-cfg", MissingFileError, "cfg.json"),
        ("saelens-torn", FileFormatError, "SAELens cannot read"),
        ("saelens-cfg", FileFormatError, "SAELens cannot read"),
    ],
)
def test_bad_sources_are_refused_and_nothing_is_left(tmp_path, kind, error, said):
    source = _break(kind, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error) as caught:
        _import(source, tmp_path / "out")
    assert said in str(caught.value) and source in caught.value.what, caught.value
    assert caught.value.got is not None and caught.value.expected is not None
    assert sorted(tmp_path.rglob("*")) == before, "no code of the file ran, nothing was written"


def test_nothing_there(tmp_path):
    (tmp_path / "layers.1").mkdir()
    with pytest.raises(FileFormatError, match="nothing"):
        importer_of(str(tmp_path / "layers.1"))
    with pytest.raises(MissingFileError, match=r"layers\.1"):
        importer_of(str(tmp_path / "layers.2"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileFormatError, match=r"notes\.txt"):
        importer_of(str(tmp_path / "notes.txt"))


def test_a_folder_of_several_names_one(tmp_path):
    _save_sparsify(tmp_path / "run" / "layers.4", _weights())
    with pytest.raises(FileFormatError) as caught:
        importer_of(str(tmp_path / "run"))
    assert str(caught.value.try_).endswith("layers.4")


def test_a_failure_while_writing_leaves_the_earlier_one(tmp_path, monkeypatch):
    source = _save_sparsify(tmp_path / "layers.1", _weights())
    _import(source, tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("sae_train.saes.importers.load_sae", lambda folder: (_ for _ in ()).throw(OSError("torn")))
    with pytest.raises(OSError, match="torn"):
        import_sae(source, out=tmp_path / "out", overwrite=True)
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layers.1", "out"]


def test_reading_writes_nothing_and_every_class_is_documented(tmp_path):
    name, draft = read_source(ImportConfig(_save_sparsify(tmp_path / "layers.1", _weights())))
    assert name == "sparsify" and draft.hook_point == "layers.1"
    assert [p.name for p in tmp_path.iterdir()] == ["layers.1"]
    assert all(kind in str(dl.__doc__) for kind in dl._CLASSES)
