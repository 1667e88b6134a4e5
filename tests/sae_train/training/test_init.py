"""Going on from an SAE: the same function in the scale of a new run, refusals, and that it helps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_train import Sae, train_sae
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, MissingFileError, ShapeError
from sae_train.run.progress import silent
from sae_train.saes.interop import WEIGHTS
from sae_train.text_files import read_json

torch.set_num_threads(1)
SIZES = {"k": 3, "d_sae": 48, "batch_size": 256, "frac_holdout": 0.1, "device": "cpu", "progress": silent}
STILL = {"tokens": 1, "lr": 1e-12}  # one step that moves nothing


@pytest.fixture
def store(make_store):
    """Rows that are sums of three of 24 directions; `layers.0.mlp` turns them."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(24, 32, generator=generator), dim=1)
    on = torch.rand(2000, 24, generator=generator).argsort(1) < 3
    acts = 5 * (on * (1 + torch.rand(2000, 24, generator=generator))) @ directions + 2
    return make_store(acts, chunk_rows=500, also={"layers.0.mlp": 0.1 * acts.roll(1, dims=1)})


def _train(store, out, **settings):
    return train_sae(store, "layers.0", out=out, **{**SIZES, "lr": 1e-2, "tokens": 256 * 60, **settings})


@pytest.mark.parametrize("target", [None, "layers.0.mlp"])
@pytest.mark.parametrize("arch", ["topk", "hierarchical-topk", "batch-topk", "matryoshka", "relu", "jumprelu"])
def test_a_run_that_learns_nothing_returns_the_sae_it_began_with(store, tmp_path, arch, target):
    settings = {"arch": arch, "target_hook_point": target, "skip": target is not None and arch == "topk"}
    settings |= {"l1_coefficient": 0.3}  # of relu, whose reconstruction a larger one spoils within so few steps
    first = _train(store, tmp_path / "first", **settings)
    again = _train(store, tmp_path / "again", init=str(tmp_path / "first"), **settings, **STILL)
    one, other = (load_file(tmp_path / name / WEIGHTS) for name in ("first", "again"))
    assert set(one) == set(other) and ("threshold" in one) == (arch not in ("topk", "hierarchical-topk", "relu"))
    for name, tensor in one.items():
        scale = float(tensor.abs().max())
        # A threshold that is learned as an average has seen one more batch: a hundredth of the way to its own.
        torch.testing.assert_close(
            other[name], tensor, rtol=0.05 if name == "threshold" else 1e-4, atol=1e-4 * scale, msg=name
        )
    assert again.metrics["fvu"] == pytest.approx(first.metrics["fvu"], rel=0.05)
    scratch = _train(store, tmp_path / "scratch", **settings, **STILL)
    assert scratch.metrics["fvu"] > 2 * again.metrics["fvu"]
    record = read_json(tmp_path / "again" / "run.json")
    assert record["inputs"]["init"]["source"] == str(tmp_path / "first") and record["inputs"]["init"]["sha256"]


def test_rows_of_another_length_are_brought_to_one_or_refused(store, tmp_path):
    lengths = torch.linspace(0.5, 2.0, 48)
    for arch in ("jumprelu", "topk"):
        first = _train(store, tmp_path / arch, arch=arch)
        tensors = load_file(tmp_path / arch / WEIGHTS)
        tensors |= {"W_enc": tensors["W_enc"] / lengths, "b_enc": tensors["b_enc"] / lengths}
        tensors |= {"W_dec": tensors["W_dec"] * lengths[:, None]}
        tensors |= {"threshold": tensors["threshold"] / lengths} if arch == "jumprelu" else {}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / arch / WEIGHTS)
        if arch == "topk":
            with pytest.raises(ConfigError, match="length one"):
                _train(store, tmp_path / "no", arch=arch, init=str(tmp_path / arch), **STILL)
            continue
        again = _train(store, tmp_path / "again", arch=arch, init=str(tmp_path / arch), **STILL)
        assert again.metrics["fvu"] == pytest.approx(first.metrics["fvu"], rel=1e-3)
        torch.testing.assert_close(again.W_dec.norm(dim=1), torch.ones(48))


def test_what_does_not_fit_is_refused_before_anything_is_written(store, tmp_path):
    _train(store, tmp_path / "first", arch="jumprelu")
    first = str(tmp_path / "first")
    for settings, error, said in (
        ({"d_sae": 64}, ShapeError, "64"),
        ({"arch": "topk"}, ConfigError, "jumprelu"),
        ({"arch": "batch-topk"}, ConfigError, "one threshold"),
        ({"target_hook_point": "layers.0.mlp"}, ConfigError, r"layers\.0\.mlp"),
        ({"init": str(tmp_path / "nothing")}, MissingFileError, "nothing"),
    ):
        with pytest.raises(error, match=said):
            _train(store, tmp_path / "no", **{"arch": "jumprelu", "init": first, **settings})
    assert not (tmp_path / "no").exists()
    before = (tmp_path / "first" / WEIGHTS).read_bytes()
    with pytest.raises(ConfigError, match="itself"):
        _train(store, tmp_path / "first", arch="jumprelu", init=first, overwrite=True)
    assert (tmp_path / "first" / WEIGHTS).read_bytes() == before


class _Stop(BaseException):
    """As a KeyboardInterrupt."""


def test_a_resumed_run_is_the_same_run(store, tmp_path):
    from sae_train.activations.store import ActivationStore
    from sae_train.training.jobs import train_one

    _train(store, tmp_path / "first", arch="batch-topk")
    sizes = {name: value for name, value in SIZES.items() if name not in ("device", "progress")}
    config = SaeTrainConfig(
        "layers.0", arch="batch-topk", init=str(tmp_path / "first"), tokens=2560, save_every=5, **sizes
    )
    steps = iter(range(7))

    def stop(_n=1, **_info):
        if next(steps, None) is None:
            raise _Stop

    with ActivationStore(store) as opened:
        train_one(opened, config, tmp_path / "straight", device="cpu")
        with pytest.raises(_Stop):
            train_one(opened, config, tmp_path / "resumed", device="cpu", advance=stop)
        with pytest.raises(ConfigError, match="init"):
            train_one(opened, replace(config, init=None), tmp_path / "resumed", device="cpu", resume=True)
        train_one(opened, config, tmp_path / "resumed", device="cpu", resume=True)
    assert (tmp_path / "resumed" / WEIGHTS).read_bytes() == (tmp_path / "straight" / WEIGHTS).read_bytes()


def test_an_sae_of_a_like_model_is_a_better_start_than_none(make_store, store, tmp_path):
    """A tenth of the steps, on rows of the same directions, moved a little: what an unlearned model's would be."""
    first = _train(store, tmp_path / "first", tokens=256 * 200)
    with torch.no_grad():
        from sae_train import ActivationStore

        with ActivationStore(store) as opened:
            rows = torch.from_numpy(opened["layers.0"][:])
    turned = rows + 0.1 * rows @ torch.randn(32, 32, generator=torch.Generator().manual_seed(5)) / 32**0.5
    moved = make_store(turned, name="moved.h5", chunk_rows=500)
    fvu = {
        name: _train(moved, tmp_path / name, tokens=256 * 20, **start).metrics["fvu"]
        for name, start in (("from_it", {"init": str(tmp_path / "first")}), ("scratch", {}))
    }
    unchanged = _train(moved, tmp_path / "unchanged", init=str(tmp_path / "first"), **STILL).metrics["fvu"]
    assert first.metrics["fvu"] < fvu["from_it"] < unchanged < fvu["scratch"]
    assert isinstance(Sae.load(tmp_path / "from_it", device="cpu"), Sae)
