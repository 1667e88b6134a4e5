"""Crosscoders: a dense reference with separate sides, exact resume, and whose a planted direction is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_train import ActivationStore, Sae, compare_saes, eval_sae, train_sae
from sae_train.activations.joined import both_models
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, ShapeError
from sae_train.quality.evaluation import compare_sides
from sae_train.run.progress import silent
from sae_train.saes import sae_from_config
from sae_train.saes.base import require_autoencoder
from sae_train.saes.interop import WEIGHTS, load_sae
from sae_train.saes.paired.crosscoder import SideComparison, side_comparison

torch.set_num_threads(1)
D, D_SAE, K = 6, 20, 3
SMALL = {"k": 4, "d_sae": 24, "batch_size": 256, "lr": 1e-2, "frac_holdout": 0.1, "dead_after_tokens": 2560}
STATION = {"device": "cpu", "progress": silent}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------ parity
@pytest.mark.parametrize("n_dead", [0, 5])
@pytest.mark.parametrize("arch", ["topk", "batch-topk", "relu"])
def test_loss_and_gradients_are_those_of_two_encoders_and_two_decoders(make_context, arch, n_dead):
    config = SaeTrainConfig("layers.0", arch=arch, d_sae=D_SAE, k=K)
    sae = sae_from_config(config, D, D).double()
    assert sae.sides == (D, D) and sae.d_in == 2 * D
    sae.init_weights(torch.linspace(0, 1, 2 * D), 0)
    torch.testing.assert_close(sae.W_dec[:, :D], sae.W_dec[:, D:])  # one direction for both to begin with
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=_generator(len(name)), dtype=torch.float64)
    rows = torch.randn(50, 2 * D, generator=_generator(1), dtype=torch.float64) + 0.5
    context = make_context(is_dead=torch.arange(D_SAE) < n_dead, auxk_alpha=1 / 4)
    result = sae.training_loss(rows, context)

    sides = [(rows[:, p], sae.W_enc[p], sae.W_dec[:, p], sae.b_dec[p]) for p in (slice(0, D), slice(D, 2 * D))]
    pre_acts = sum((x - b_dec) @ W_enc for x, W_enc, _, b_dec in sides) + sae.b_enc
    smallest = {
        "topk": pre_acts.topk(K).values[:, -1:],
        "batch-topk": pre_acts.flatten().topk(K * 50).values.min(),
        "relu": torch.zeros(()),
    }[arch].detach()
    latents = pre_acts * ((pre_acts >= smallest) & (pre_acts > 0))
    errors = [x - latents @ W_dec - b_dec for x, _, W_dec, b_dec in sides]
    squares = sum(e.square().sum() for e in errors)
    if arch == "relu":
        norms = sum(W_dec.square().sum(1) for *_, W_dec, _ in sides).sqrt()
        expected = (squares + 5.0 * (latents * norms).sum()) / (50 * 2 * D)
    else:
        expected = squares / sum((x - x.mean(0)).square().sum() for x, *_ in sides)
        if n_dead:
            e = torch.cat(errors, dim=1).detach()
            values, at = pre_acts[:, :n_dead].topk(min(D, n_dead))
            e_hat = torch.zeros(50, n_dead, dtype=torch.float64).scatter(1, at, values.relu()) @ sae.W_dec[:n_dead]
            expected = expected + (e - e_hat).square().sum() / (e - e.mean(0)).square().sum() / 4
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    parameters = list(sae.parameters())
    found = torch.autograd.grad(result.loss, parameters)
    for a, b in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------ planted truth
@pytest.fixture
def two_models(make_store):
    """Return a function that writes the stores of two models: 16 shared directions, `n_own` more after."""

    def build(n_own: int, name: str = "pair"):
        generator = _generator(11)  # not the trainer's seed, which draws the first decoder rows
        directions = torch.nn.functional.normalize(torch.randn(20, 32, generator=generator), dim=1)
        on = torch.rand(3000, 20, generator=generator).argsort(1) < 4
        sizes = 5 * on * (1 + torch.rand(3000, 20, generator=generator))
        before = sizes[:, :16] @ directions[:16] + 2
        after = before + sizes[:, 16 : 16 + n_own] @ directions[16 : 16 + n_own]
        paths = [
            make_store(x, name=f"{name}-{k}.h5", chunk_rows=500) for k, x in (("before", before), ("after", after))
        ]
        return *paths, directions

    return build


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["topk", "batch-topk"])
def test_a_direction_that_only_one_model_has_is_found_and_none_where_they_are_equal(two_models, tmp_path, arch):
    found = {}
    for name, n_own in (("planted", 3), ("equal", 0)):
        before, after, directions = two_models(n_own, name)
        sae = train_sae(before, other=after, out=tmp_path / name, **STATION, **SMALL, arch=arch, tokens=256 * 300)
        sides = compare_sides(tmp_path / name, before=before, after=after)
        only = np.flatnonzero(sides.kinds()["only_after"])
        rows = torch.nn.functional.normalize(sae.W_dec[:, 32:][only], dim=1)
        own = (directions[16:19] @ rows.T).amax(1) if len(only) else torch.zeros(3)
        found[name] = (sides.summary(), own, sae.metrics["fvu"])
    summary, own, fvu = found["planted"]
    assert (own > 0.9).all() and summary["n_only_before"] == 0 and fvu < 0.1
    assert summary["n_shared"] >= 14 and summary["median_cosine_shared"] > 0.95
    equal, own, fvu = found["equal"]
    assert equal["n_only_after"] == equal["n_only_before"] == equal["n_between"] == 0 and fvu < 0.1
    assert equal["n_shared"] >= 14 and equal["n_shared"] + equal["n_never_fire"] == 24


@pytest.mark.slow
def test_a_direction_that_turns_is_found(make_store, tmp_path):
    generator = _generator(12)
    directions = torch.nn.functional.normalize(torch.randn(17, 32, generator=generator), dim=1)
    on = torch.rand(3000, 16, generator=generator).argsort(1) < 4
    sizes = 5 * on * (1 + torch.rand(3000, 16, generator=generator))
    turned = torch.cat([directions[:15], directions[16:]])  # the last one, in the other model
    before, after = (
        make_store(sizes @ rows + 2, name=f"{name}.h5", chunk_rows=500)
        for name, rows in (("before", directions[:16]), ("after", turned))
    )
    sae = train_sae(before, other=after, out=tmp_path / "turned", **STATION, **SMALL, arch="topk", tokens=256 * 300)
    sides = compare_sides(tmp_path / "turned", before=before, after=after)
    kinds = sides.kinds()
    [own] = np.flatnonzero(kinds["turned"])
    rows = [torch.nn.functional.normalize(part[own], dim=0) for part in sae.W_dec.detach().split(32, dim=1)]
    assert float(rows[0] @ directions[15]) > 0.9 and float(rows[1] @ directions[16]) > 0.9
    assert kinds["shared"].sum() >= 14 and not kinds["only_before"].any() and not kinds["only_after"].any()


def test_kinds_go_by_the_relative_norm_and_the_cosine():
    relative = np.array([0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.9, 1.0, 0.5, 0.5, 0.5])
    rate = np.array([0.1] * 8 + [0.0, 0.1, 0.1])
    rate[7] = 0.5
    cosine = np.array([1.0] * 9 + [0.49, 0.5])
    turned = SideComparison(relative, cosine, rate).summary()
    assert (turned["n_turned"], turned["n_shared"], turned["turned"]) == (1, 4, [9])
    found = SideComparison(relative[:9], np.ones(9), rate[:9])
    summary = found.summary()
    assert [summary[f"n_{k}"] for k in ("only_before", "only_after", "between", "shared")] == [2, 2, 1, 3]
    assert summary["n_never_fire"] == 1 and summary["only_after"] == [7, 6] and summary["only_before"] == [0, 1]
    assert found.latent(8)["kind"] == "never fires" and found.latent(2)["kind"] == "between"
    assert "n_never_fire" not in replace(found, rate=None).summary()


def test_the_relative_norm_is_that_of_the_sides():
    sae = sae_from_config(SaeTrainConfig("layers.0", d_sae=3, k=1), 2, 2)
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[3.0, 0, 1, 0], [0, 0, 0, 2.0], [1, 0, 0, 1]]))
    found = side_comparison(sae)
    assert found.relative_norm.tolist() == pytest.approx([0.25, 1.0, 0.5])
    assert found.cosine.tolist() == pytest.approx([1.0, 0.0, 0.0])
    with pytest.raises(ConfigError, match="two sides"):
        side_comparison(sae_from_config(SaeTrainConfig("layers.0", d_sae=3, k=1), 2))


# ------------------------------------------------------------------------------ stores, folders, refusals
class _Stop(BaseException):
    """As a KeyboardInterrupt."""


def test_a_resumed_run_is_the_same_run(two_models, tmp_path):
    from sae_train.training.jobs import train_one

    before, after, _ = two_models(3)
    config = SaeTrainConfig("layers.0", tokens=2560, save_every=5, **SMALL)
    steps = iter(range(7))

    def stop(_n=1, **_info):
        if next(steps, None) is None:
            raise _Stop

    with ActivationStore(before) as one, ActivationStore(after) as two:
        rows = both_models(one, two)
        train_one(rows, config, tmp_path / "straight", device="cpu")
        with pytest.raises(_Stop):
            train_one(rows, config, tmp_path / "resumed", device="cpu", advance=stop)
        with pytest.raises(ConfigError, match="changed"):  # another pair of models is another run
            train_one(both_models(one, one), config, tmp_path / "resumed", device="cpu", resume=True)
        train_one(rows, config, tmp_path / "resumed", device="cpu", resume=True)
    assert (tmp_path / "resumed" / WEIGHTS).read_bytes() == (tmp_path / "straight" / WEIGHTS).read_bytes()


def test_its_folder_is_read_and_goes_nowhere_an_sae_is_needed(two_models, tmp_path):
    before, after, _ = two_models(3)
    sae = train_sae(before, other=after, out=tmp_path / "cross", tokens=256 * 20, **SMALL, **STATION)
    loaded = load_sae(tmp_path / "cross")
    assert loaded.sides == sae.sides == (32, 32) and loaded.d_in == 64
    assert loaded.cfg["metadata"]["other_model_name"] == "none"
    loaded.save(tmp_path / "copy")
    assert Sae.load(tmp_path / "copy", device="cpu").sides == (32, 32)
    found = eval_sae(loaded, before, other=after, frac_holdout=0.1)
    assert found.quality.fvu.value == pytest.approx(sae.metrics["fvu"], rel=1e-6)
    with pytest.raises(ConfigError, match="two stores"):
        eval_sae(loaded, before)
    plain = train_sae(before, out=tmp_path / "plain", tokens=256 * 20, **SMALL, **STATION)
    with pytest.raises(ConfigError, match="two stores"):
        eval_sae(plain, before, other=after)
    with pytest.raises(ConfigError, match="crosscoder"):
        require_autoencoder(loaded, "mining")
    with pytest.raises(ShapeError):
        compare_saes(loaded, plain)
    with pytest.raises(ShapeError, match="sides"):
        train_sae(before, out=tmp_path / "no", init=str(tmp_path / "cross"), tokens=256, **SMALL, **STATION)
    path = tmp_path / "copy" / "cfg.json"
    cfg = json.loads(path.read_text())
    cfg["metadata"]["sides"] = [32, 31]
    path.write_text(json.dumps(cfg))
    with pytest.raises(ShapeError, match="31"):
        load_sae(tmp_path / "copy")


def test_other_rows_are_refused(make_store, two_models, tmp_path):
    before, after, _ = two_models(3)
    with ActivationStore(before) as opened:
        rows = torch.from_numpy(opened["layers.0"][:])
    moved = make_store(rows, name="moved.h5", chunk_rows=500, token_id=np.arange(3000) + (np.arange(3000) > 5))
    wide = make_store(torch.cat([rows, rows], 1), name="wide.h5", chunk_rows=500)
    how = {"out": tmp_path / "no", "tokens": 256, **SMALL, **STATION}
    with pytest.raises(ConfigError, match="same rows") as refused:
        train_sae(before, other=moved, **how)
    assert "0.2%" in refused.value.got
    with pytest.raises(ShapeError, match="go together"):
        train_sae(before, other=wide, **how)
    with pytest.raises(ConfigError, match="transcoder"):
        train_sae(before, "layers.0", other=after, target_hook_point="layers.1", **how)
    assert not (tmp_path / "no").exists()
