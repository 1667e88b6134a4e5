"""Transcoders: losses against a dense reference, folders as SAELens reads them, planted maps, the splice."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sae_train import ActivationStore, Sae, cache_activations, eval_sae, train_sae, train_saes
from sae_train.activations.joined import JoinedStore, joined_rows, row_widths
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, FileFormatError, HookPointError, NumericalError, ShapeError
from sae_train.run.progress import silent
from sae_train.saes import sae_from_config
from sae_train.saes.interop import WEIGHTS, load_sae, save_sae
from sae_train.saes.paired.transcoder import TRANSCODERS

pytestmark = pytest.mark.xdist_group("sae_lens")  # one process imports it, which takes seconds

torch.set_num_threads(1)
D_IN, D_OUT, D_SAE, K = 12, 9, 40, 4
KEEP_K = ("topk", "hierarchical-topk")
WHERE = {"hook_point": "layers.0.mlp:in", "target_hook_point": "layers.0.mlp"}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _transcoder(arch: str, *, skip: bool = False, **settings):
    """One with nothing zero, in float64; inputs are measured from a center."""
    config = SaeTrainConfig(**WHERE, arch=arch, d_sae=D_SAE, skip=skip, **{"k": K, **settings})
    sae = sae_from_config(config, D_IN, D_OUT).double()
    sae.init_weights(torch.full((D_OUT,), 0.5), 0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name != "log_growth":
                parameter += 0.2 * torch.randn(parameter.shape, generator=_generator(len(name)), dtype=torch.float64)
        sae.center.copy_(torch.linspace(-1, 1, D_IN))
        sae.gain.fill_(1.7)
        if arch == "jumprelu":
            sae.start_threshold.copy_(torch.linspace(0.2, 1.0, D_SAE))
    return sae


def _rows(n: int = 60, seed: int = 0):
    rows = torch.randn(n, D_IN + D_OUT, generator=_generator(seed), dtype=torch.float64)
    rows[:, D_IN:] += torch.tanh(2 * rows[:, :D_OUT])  # what comes out depends on what goes in
    return rows + 0.5


def _dense_loss(sae, arch: str, rows, context):
    """The formulas of the docstrings, with (batch, d_sae) latents; returns loss, latents and y_hat."""
    x, y = rows[:, :D_IN], rows[:, D_IN:]
    u = (x - sae.center) * sae.gain
    pre_acts = u @ sae.W_enc + sae.b_enc
    linear = 0.0 if sae.W_skip is None else u @ sae.W_skip.T
    flat = pre_acts.detach().flatten()
    if arch in KEEP_K:
        is_on = torch.zeros_like(pre_acts).scatter(1, pre_acts.topk(K).indices, 1.0).bool() & (pre_acts > 0)
    elif arch in ("batch-topk", "matryoshka"):
        is_on = (pre_acts >= flat.topk(K * len(rows)).values.min()) & (pre_acts > 0)
    else:
        is_on = pre_acts > (sae.thresholds().detach() if arch == "jumprelu" else 0.0)
    latents = pre_acts * is_on
    y_hat = latents @ sae.W_dec + sae.b_dec + linear
    variance = (y - y.mean(0)).square().sum()
    if arch == "relu":
        l1 = (latents * sae.W_dec.norm(dim=1)).sum(1).mean() / D_OUT
        return (y - y_hat).square().mean() + context.l1_coefficient * l1, latents, y_hat
    if arch == "jumprelu":
        l0 = is_on.double().sum(1).mean()
        return (y - y_hat).square().mean() + sae.l0_coefficient * (l0 / K - 1).square(), latents, y_hat
    parts = [latents]
    if arch == "matryoshka":
        parts = [latents * (torch.arange(D_SAE) < m) for m in sae.prefixes.tolist()]
    elif arch == "hierarchical-topk":
        at_least = [latents.detach().topk(j, dim=1).values[:, -1:] for j in sae.levels.tolist()]
        parts = [latents * (latents >= least) for least in at_least]
        assert len(parts) == 3
    errors = [y - part @ sae.W_dec - sae.b_dec - linear for part in parts]
    loss = sum(e.square().sum() for e in errors) / len(errors) / variance
    error, dead = errors[-1].detach(), context.is_dead.nonzero().flatten()
    if len(dead):
        values, at = pre_acts[:, dead].topk(min(D_OUT // 2, len(dead)))
        e_hat = torch.zeros(len(rows), len(dead), dtype=rows.dtype).scatter(1, at, values.relu()) @ sae.W_dec[dead]
        loss = loss + context.auxk_alpha * (error - e_hat).square().sum() / (error - error.mean(0)).square().sum()
    return loss, latents, y_hat


# ------------------------------------------------------------------------------ parity
@pytest.mark.parametrize("n_dead", [0, 9])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("arch", TRANSCODERS)
def test_loss_and_gradients_are_those_of_the_dense_reference(make_context, arch, skip, n_dead):
    sae, rows = _transcoder(arch, skip=skip, l0_coefficient=2.0), _rows()
    context = make_context(is_dead=torch.arange(D_SAE) < n_dead, auxk_alpha=1 / 4)
    expected, latents, y_hat = _dense_loss(sae, arch, rows, context)
    result = sae.training_loss(rows, context)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.equal(result.fired, (latents > 0).any(0)) and 0 < int(result.fired.sum())
    # A threshold's gradient is an estimate with its own tests; everything else is that of the formula.
    names = [name for name, _ in sae.named_parameters() if name != "log_growth"]
    assert ("W_skip" in names) == skip
    parameters = [sae.get_parameter(name) for name in names]
    found = torch.autograd.grad(result.loss, parameters)
    for name, a, b in zip(names, found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
    if arch in (*KEEP_K, "relu", "jumprelu"):  # the others choose by a learned threshold outside training
        x = sae.input_of(rows)
        torch.testing.assert_close(sae.encode(x), latents)
        torch.testing.assert_close(sae(x), y_hat)
    torch.testing.assert_close(
        sae(sae.input_of(rows)), sae.recon_of(sae.input_of(rows), sae.encode(sae.input_of(rows)))
    )


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("arch", TRANSCODERS)
def test_folding_changes_nothing_in_the_models_scale(arch, skip):
    sae, x, scale = _transcoder(arch, skip=skip), _rows()[:, :D_IN], 0.037
    if arch in ("batch-topk", "matryoshka"):
        sae.threshold.fill_(0.3)
    with torch.no_grad():
        before, latents = sae(x * scale) / scale, sae.encode(x * scale) / scale
        sae.fold_scale(scale)
        torch.testing.assert_close(sae(x), before)
        torch.testing.assert_close(sae.encode(x), latents)
        assert float(sae.gain) == 1 and not sae.center.any() and (latents != 0).any()
        torch.testing.assert_close(sae.pre_acts(x), x @ sae.W_enc + sae.b_enc)


def test_inputs_are_measured_from_their_mean(make_context):
    sae, rows = _transcoder("topk"), _rows(500) * 7 + 100
    sae.init_inputs(rows)
    u = sae.encoder_rows(rows)
    torch.testing.assert_close(u.mean(0), torch.zeros(D_IN, dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(u.norm(dim=1).mean()) == pytest.approx(D_IN**0.5)
    with pytest.raises(NumericalError, match=r"layers\.0\.mlp:in"):
        sae.init_inputs(torch.ones(9, D_IN + D_OUT, dtype=torch.float64))


# ------------------------------------------------------------------------------ folders
@pytest.mark.filterwarnings("ignore")  # SAELens' own imports
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("arch", TRANSCODERS)
def test_saelens_reads_the_same_transcoder(tmp_path, arch, skip):
    sae = _transcoder(arch, skip=skip).float()
    if arch in ("batch-topk", "matryoshka"):
        sae.threshold.fill_(0.3)
    sae.fold_scale(0.37)
    save_sae(sae, tmp_path / "sae", hook_point=sae.hook_point, metadata={"model_name": "toy"})
    ours, x = load_sae(tmp_path / "sae"), _rows(seed=5)[:, :D_IN].float() / 0.37
    assert (ours.hook_point, ours.target_hook_point) == tuple(WHERE.values())
    assert ours.cfg["metadata"]["workbench_arch"] == arch
    with torch.no_grad():
        latents = ours.encode(x)
        assert 0 < (latents != 0).float().mean() < 0.6
        torch.testing.assert_close(latents, sae.encode(x), rtol=0, atol=0)
        torch.testing.assert_close(ours(x), sae(x), rtol=0, atol=0)
        if arch in KEEP_K:
            with pytest.raises(ConfigError, match="topk_"):
                ours.to_saelens()
            return
        from sae_lens import SAE

        theirs = SAE.load_from_disk(str(tmp_path / "sae"), device="cpu")
        kind = {"relu": ""}.get(arch, "jumprelu_") + ("skip_transcoder" if skip else "transcoder")
        assert theirs.cfg.architecture() == kind and ours.to_saelens().cfg.architecture() == kind
        places = (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.hook_name_out)
        assert places == ("blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out")
        torch.testing.assert_close(theirs.encode(x), latents, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(theirs(x), ours(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"d_out": None}, FileFormatError, "no d_out"),
        ({"d_out": D_OUT + 1}, ShapeError, "10"),
        ({"architecture": "topk_transcoder"}, ShapeError, "W_skip"),
        ({"apply_b_dec_to_input": True}, FileFormatError, "apply_b_dec_to_input"),
    ],
)
def test_a_folder_that_means_something_else_is_refused(tmp_path, change, error, said):
    sae = _transcoder("topk", skip=True).float()
    save_sae(sae, tmp_path / "sae", hook_point=sae.hook_point, metadata={})
    path = tmp_path / "sae" / "cfg.json"
    cfg = {k: v for k, v in {**json.loads(path.read_text()), **change}.items() if v is not None}
    path.write_text(json.dumps(cfg))
    with pytest.raises(error, match=said):
        load_sae(path.parent)


# ------------------------------------------------------------------------------ stores
@pytest.fixture
def make_pair(make_store):
    """Return a function that writes two stores of the same rows and joins them."""

    def build(x, y, **settings):
        return JoinedStore(
            ActivationStore(make_store(x, name="x.h5", **settings)),
            ActivationStore(make_store(y, name="y.h5", **settings)),
        )

    return build


def test_joined_rows_are_those_of_both_places(make_pair, make_store):
    x, y = (torch.randn(70, 8, generator=_generator(seed)) for seed in (1, 2))
    joined = make_pair(x, y)
    assert joined.widths("layers.0") == row_widths(joined, "layers.0") == (8, 8) and joined.d_in("layers.0") == 16
    both = torch.cat([x, y], dim=1)
    assert torch.equal(joined.rows("layers.0", slice(5, 60)), both[5:60])
    assert torch.equal(torch.cat([part for _, part in joined.blocks("layers.0")]), both)
    assert joined.holdout_rows(0.3, 1).sum() == 20
    with ActivationStore(make_store(x)) as store:
        assert joined_rows(store, None) is store and row_widths(store, "layers.0") == (8,)
        with pytest.raises(HookPointError):
            joined_rows(store, "layers.1")
    for other in (y[:60], torch.cat([y, y], dim=1)):
        with pytest.raises(ShapeError, match="go together"):
            make_pair(x, other)


# ------------------------------------------------------------------------------ training
@pytest.fixture
def mlp_store(tiny_llama_dir, tmp_path):
    """A store with input, output and the stream behind it of the first MLP of a random Llama."""
    text = [f"{a} {b} {c}." for a in ("Mira", "Edo", "Osk") for b in ("was born in", "plays") for c in range(40)]
    places = [*WHERE.values(), "layers.0"]
    with cache_activations(
        tiny_llama_dir, text, places, out=tmp_path / "acts.h5", ctx_len=24, dtype="float32", progress=silent
    ) as store:
        yield store, text


SMALL = {"k": 4, "d_sae": 64, "batch_size": 128, "tokens": 6400, "lr": 3e-3, "frac_holdout": 0.2, "progress": silent}


@pytest.mark.parametrize(("arch", "skip"), [("topk", False), ("batch-topk", True), ("jumprelu", False)])
def test_a_transcoder_is_trained_saved_and_spliced_in(mlp_store, tiny_llama_dir, tmp_path, arch, skip):
    store, text = mlp_store
    where = {"out": tmp_path / "transcoder", "device": "cpu"}
    sae = train_sae(
        store, WHERE["hook_point"], target_hook_point="layers.0.mlp", arch=arch, skip=skip, **where, **SMALL
    )
    assert sae.target_hook_point == "layers.0.mlp" and isinstance(sae, TRANSCODERS[arch] if arch == "topk" else Sae)
    found = eval_sae(tmp_path / "transcoder", store, lm=tiny_llama_dir, text=text, frac_holdout=0.2, device="cpu")
    assert found.quality.fvu.value == pytest.approx(sae.metrics["fvu"], rel=1e-9) and found.text_held_out
    assert 0 < found.quality.fvu.value < 0.8
    # Spliced in at the MLP's output: clean loss is the model's, and what the transcoder returns is what counts.
    assert found.spliced is not None and found.spliced.kl.value > 0
    with torch.no_grad():
        sae.W_dec.zero_(), sae.b_dec.zero_()
        if sae.W_skip is not None:
            sae.W_skip.zero_()
    nothing = eval_sae(sae, store, lm=tiny_llama_dir, text=text, frac_holdout=0.2, device="cpu").spliced
    assert nothing.ce_sae.value == pytest.approx(nothing.ce_zero.value, rel=1e-6)
    assert found.spliced.ce_zero.value == nothing.ce_zero.value != pytest.approx(found.spliced.ce_sae.value, rel=1e-6)


class _Stop(BaseException):
    """As a KeyboardInterrupt."""


@pytest.mark.parametrize(("arch", "skip"), [("topk", True), ("batch-topk", False)])
def test_a_resumed_run_is_the_same_run(mlp_store, tmp_path, arch, skip):
    from sae_train.run.checkpoints import load_checkpoint
    from sae_train.training.jobs import train_one

    store, _ = mlp_store
    settings = {key: value for key, value in SMALL.items() if key != "progress"} | {"tokens": 1280, "save_every": 5}
    config = SaeTrainConfig(**WHERE, arch=arch, skip=skip, dead_after_tokens=128, **settings)
    steps = iter(range(7))

    def stop(_n=1, **_info):
        if next(steps, None) is None:
            raise _Stop

    train_one(store, config, tmp_path / "straight", device="cpu")
    train_one(store, replace(config, eval_every=3), tmp_path / "looked-at", device="cpu")
    with pytest.raises(_Stop):
        train_one(store, config, tmp_path / "resumed", device="cpu", advance=stop)
    tensors, step = load_checkpoint(tmp_path / "resumed", {})
    assert step == 5 and {"parameter.center", "parameter.gain"} <= set(tensors)
    assert ("parameter.W_skip" in tensors) == skip
    with pytest.raises(ConfigError, match="skip"):
        train_one(store, replace(config, skip=not skip), tmp_path / "resumed", device="cpu", resume=True)
    train_one(store, config, tmp_path / "resumed", device="cpu", resume=True)
    expected = (tmp_path / "straight" / WEIGHTS).read_bytes()
    assert (tmp_path / "resumed" / WEIGHTS).read_bytes() == expected
    assert (tmp_path / "looked-at" / WEIGHTS).read_bytes() == expected


def test_impossible_transcoders_are_refused(mlp_store, tmp_path):
    store, _ = mlp_store
    where = {"out": tmp_path / "no", "device": "cpu", **SMALL}
    for settings, said in (
        ({"target_hook_point": "layers.1"}, r"layers\.1"),
        ({"target_hook_point": WHERE["hook_point"]}, "an SAE needs none"),
        ({"skip": True}, "target_hook_point"),
    ):
        with pytest.raises((ConfigError, HookPointError), match=said):
            train_sae(store, WHERE["hook_point"], **settings, **where)
    several = {"k": [4], **{key: value for key, value in where.items() if key != "k"}}
    with pytest.raises(ConfigError, match="one hook_point"):
        train_saes(store, ["layers.0", "layers.0.mlp:in"], target_hook_point="layers.0.mlp", **several)
    assert not (tmp_path / "no").exists()


# ------------------------------------------------------------------------------ planted truth
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["topk", "batch-topk", "jumprelu"])
def test_planted_maps_are_found_and_not_where_rows_are_paired_at_random(make_store, tmp_path, arch):
    """Twenty input directions, three on at a time, each of which writes an output direction of its own."""
    generator = _generator(11)  # not the trainer's seed, which draws the first directions
    reads, writes = (torch.nn.functional.normalize(torch.randn(20, 32, generator=generator), dim=1) for _ in range(2))
    sizes = 5 * (torch.rand(3000, 20, generator=generator).argsort(1) < 3)
    sizes = sizes * (1 + torch.rand(3000, 20, generator=generator))
    x, y = sizes @ reads + 20, 0.03 * (sizes @ writes) + 1  # another scale and another mean: neither may matter
    settings = {"arch": arch, "k": 3, "d_sae": 40, "batch_size": 256, "tokens": 256 * 300}
    settings["lr"] = 3e-3 if arch == "jumprelu" else 1e-2  # thresholds want smaller steps
    # Where rows are paired at random latents fall silent for good reason; that is no diverged run.
    settings |= {"target_hook_point": "layers.0.mlp", "dead_after_tokens": 100_000, "device": "cpu"}
    found = {}
    for name, out in {"found": y, "control": y[torch.randperm(3000, generator=generator)]}.items():
        path = make_store(x, name=f"{name}.h5", chunk_rows=500, also={"layers.0.mlp": out})
        sae = train_sae(path, "layers.0", out=tmp_path / name, progress=silent, **settings)
        cosine, latent = (writes @ load_file(tmp_path / name / WEIGHTS)["W_dec"].T).max(dim=1)
        # What is on in a row where a direction is on, and hardly anywhere else, reads that direction.
        with torch.no_grad():
            is_on = (sae.encode(x) > 0)[:, latent] == (sizes > 0)
        found[name] = (float(((cosine > 0.9) & (is_on.float().mean(0) > 0.95)).float().mean()), sae.metrics["fvu"])
    assert found["found"][0] > 0.8 and found["found"][1] < 0.15, found
    assert found["control"][0] < 0.2 and found["control"][1] > 0.9, found


def test_the_linear_path_learns_what_is_linear(make_store, tmp_path):
    generator = _generator(4)
    x = torch.randn(3000, 32, generator=generator)
    y = x @ torch.randn(32, 32, generator=generator) + x.abs() @ torch.randn(32, 32, generator=generator)
    path, fvu = make_store(x, chunk_rows=500, also={"layers.0.mlp": y}), {}
    for skip in (False, True):
        settings = {"skip": skip, "k": 4, "d_sae": 64, "batch_size": 256, "lr": 1e-2, "tokens": 256 * 150}
        settings |= {"target_hook_point": "layers.0.mlp", "device": "cpu", "out": tmp_path / str(skip)}
        fvu[skip] = train_sae(path, "layers.0", progress=silent, **settings).metrics["fvu"]
    # |x| has 1 - 2 / pi of x's variance, so that about a quarter of all is not linear.
    assert fvu[True] < 0.35 < 0.5 < fvu[False], fvu
