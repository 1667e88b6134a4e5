"""SAE maths against known answers, dense references and SAELens itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from sae_train.config import ARCH_NAMES, SaeTrainConfig
from sae_train.errors import ConfigError, FileFormatError, MissingFileError, ShapeError
from sae_train.quality.metrics import VarianceSums, ce_recovered, dead_latents, fvu, l0
from sae_train.saes import ARCHS, SAELENS_ARCHS, build_sae
from sae_train.saes.base import Sae, StepContext
from sae_train.saes.interop import WEIGHTS, load_sae, save_sae
from sae_train.saes.losses.auxk import auxk_loss
from sae_train.saes.sparse_ops import sparse_decode

pytestmark = pytest.mark.xdist_group("sae_lens")  # one process imports it, which takes seconds

torch.set_num_threads(1)
D_IN, D_SAE, K = 12, 40, 4


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _acts(n: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D_IN, generator=_generator(seed)) + 0.5


def _sae(arch: str, seed: int = 0) -> Sae:
    """An SAE with nothing zero: tied weights would hide a transposition."""
    sae = build_sae(arch, D_IN, D_SAE, k=K)
    sae.init_weights(torch.full((D_IN,), 0.5), seed)
    with torch.no_grad():
        sae.W_enc += 0.3 * torch.randn(D_IN, D_SAE, generator=_generator(seed + 1))
        sae.b_enc += 0.1 * torch.randn(D_SAE, generator=_generator(seed + 2))
    return sae


def _context(**settings) -> StepContext:
    return StepContext(
        **{
            "is_dead": torch.zeros(D_SAE, dtype=torch.bool),
            "progress": 1.0,
            "auxk_alpha": 1 / 32,
            "l1_coefficient": 5.0,
            "frac_l1_warmup": 0.05,
            **settings,
        }
    )


# ------------------------------------------------------------------------------ metrics
def test_fvu_of_known_answers():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    # mean (1, 1): every row is sqrt(2) away, so sum ||x - mean||^2 = 8
    assert fvu(x, x).item() == 0
    assert fvu(x, x.mean(0).expand(4, 2)).item() == 1
    assert fvu(x, x + 1).item() == 1  # 4 rows, error 2 each
    assert fvu(x, torch.zeros(4, 2)).item() == 2  # sum ||x||^2 = 16: worse than the mean
    assert fvu(x + 1000, x + 1001).item() == pytest.approx(1, abs=1e-9)


def test_fvu_in_a_stream_equals_one_shot():
    x = _acts(500) * torch.logspace(-2, 3, D_IN) + 1e3
    y = x + torch.randn(500, D_IN, generator=_generator(9))
    sums = VarianceSums(D_IN)
    for part in (slice(0, 1), slice(1, 130), slice(130, 131), slice(131, 500)):
        sums.update(x[part], y[part])
    x64, y64 = x.double(), y.double()
    dense = (x64 - y64).square().sum() / (x64 - x64.mean(0)).square().sum()
    assert sums.fvu() == pytest.approx(float(dense), rel=1e-10)
    assert float(fvu(x, y)) == pytest.approx(float(dense), rel=1e-6)
    assert sums.l2_ratio() == pytest.approx(float(y64.norm() / x64.norm()), rel=1e-10)


def test_fvu_refuses_what_has_no_variance():
    with pytest.raises(ShapeError, match="1 tokens"):
        fvu(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(ShapeError, match="variance"):
        fvu(torch.full((9, 3), 0.1), torch.zeros(9, 3))


def test_small_metrics():
    assert l0(torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0]])).item() == 1
    assert dead_latents(torch.tensor([0, 9, 10, 11]), 10).tolist() == [False, False, True, True]
    assert ce_recovered(ce_clean=2.0, ce_sae=2.0, ce_zero=5.0) == 1
    assert ce_recovered(ce_clean=2.0, ce_sae=5.0, ce_zero=5.0) == 0
    assert ce_recovered(ce_clean=2.0, ce_sae=8.0, ce_zero=5.0) == -1


# ------------------------------------------------------------------------------ sparse decode
def test_sparse_decode_equals_dense_with_gradients():
    values = torch.rand(6, K, dtype=torch.float64, generator=_generator()).requires_grad_()
    W_dec = torch.randn(9, 5, dtype=torch.float64, generator=_generator(1)).requires_grad_()
    indices = torch.stack([torch.randperm(9, generator=_generator(i))[:K] for i in range(6)])

    def dense(values, W_dec):
        return torch.zeros(6, 9, dtype=torch.float64).scatter(1, indices, values) @ W_dec

    sparse = sparse_decode(values, indices, W_dec)
    torch.testing.assert_close(sparse, dense(values, W_dec), rtol=0, atol=1e-12)
    weight = torch.randn(6, 5, dtype=torch.float64, generator=_generator(2))
    got = torch.autograd.grad((sparse * weight).sum(), (values, W_dec))
    expected = torch.autograd.grad((dense(values, W_dec) * weight).sum(), (values, W_dec))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert got[0].abs().min() > 0
    assert torch.autograd.gradcheck(lambda v, w: sparse_decode(v, indices, w), (values, W_dec))


# ------------------------------------------------------------------------------ architectures
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("shape", [(D_IN,), (24, D_IN), (4, 6, D_IN), (2, 3, 4, D_IN), (0, 5, D_IN)])
def test_leading_axes_are_free(arch, shape):
    """One token, a batch of tokens, (batch, position, d_in): each token gets what it gets as a row among rows."""
    sae = _sae(arch)
    if "threshold" in dict(sae.named_buffers()):
        sae.threshold.fill_(0.3)
    acts = torch.randn(shape, generator=_generator(5)) + 0.5
    rows = acts.reshape(-1, D_IN)
    latents = sae.encode(acts)
    assert latents.shape == (*shape[:-1], D_SAE)
    assert torch.equal(latents.reshape(-1, D_SAE), sae.encode(rows))
    assert len(rows) == 0 or 0 < int((latents != 0).sum()) < latents.numel()
    for found, expected in ((sae.decode(latents), sae.decode(sae.encode(rows))), (sae(acts), sae(rows))):
        assert found.shape == acts.shape
        torch.testing.assert_close(found.reshape(-1, D_IN), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(sae.pre_acts(acts).reshape(-1, D_SAE), sae.pre_acts(rows))


def test_topk_keeps_the_k_largest():
    sae, acts = _sae("topk"), _acts()
    pre_acts, latents = sae.pre_acts(acts), sae.encode(acts)
    assert (latents != 0).sum(dim=1).tolist() == [K] * len(acts)
    kept = latents != 0
    assert torch.equal(latents[kept], pre_acts[kept])
    smallest_kept = latents.masked_fill(~kept, torch.inf).amin(1)
    assert (smallest_kept >= pre_acts.masked_fill(kept, -torch.inf).amax(1)).all()
    torch.testing.assert_close(sae(acts), sae.decode(latents))


def test_topk_zeroes_negative_ones_among_the_k():
    sae = build_sae("topk", 3, 3, k=3)
    pre_acts = torch.tensor([[1.0, -2.0, 3.0]])
    assert sae.activate(pre_acts).tolist() == [[1.0, 0.0, 3.0]]


@pytest.mark.parametrize("arch", ARCHS)
def test_pre_activations_are_those_of_the_formula(arch):
    sae, acts = _sae(arch), _acts()
    torch.testing.assert_close(sae.pre_acts(acts), (acts - sae.b_dec) @ sae.W_enc + sae.b_enc, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE))


def test_the_topk_loss_is_fvu_and_reports_what_fired():
    sae, acts = _sae("topk"), _acts()
    result = sae.training_loss(acts, _context())
    assert float(result.loss.detach()) == pytest.approx(float(fvu(acts, sae(acts))), rel=1e-5)
    assert float(result.terms["auxk"]) == 0
    assert torch.equal(result.fired, (sae.encode(acts) > 0).any(dim=0))


def test_only_the_dead_loss_reaches_the_encoder_of_dead_latents():
    sae, acts, dead = _sae("topk"), _acts(), torch.arange(D_SAE) < 8
    with torch.no_grad():  # above zero on many tokens and never among the k largest
        sae.b_enc[8:] += 9.0
        sae.b_enc[:8] += 0.5
    gradients = {}
    for name, settings in {
        "none": {},
        "dead": {"is_dead": dead},
        "weightless": {"is_dead": dead, "auxk_alpha": 0.0},
    }.items():
        sae.zero_grad()
        result = sae.training_loss(acts, _context(**settings))
        assert not result.fired[dead].any()
        assert (float(result.terms["auxk"]) > 0) == (name != "none")
        result.loss.backward()
        gradients[name] = sae.W_enc.grad[:, dead].abs().amax(0)
    assert (gradients["dead"] > 0).all()
    assert (gradients["none"] == 0).all() and (gradients["weightless"] == 0).all()


def test_the_dead_loss_leaves_living_latents_and_the_target_alone():
    """The gradient of AuxK alone: dead decoder rows move, the others do not (the error is a constant to it)."""
    sae, acts = _sae("topk"), _acts()
    dead = torch.arange(8)
    error = torch.randn(len(acts), D_IN, generator=_generator(3))
    auxk_loss(sae, (acts - sae.b_dec).detach(), error, dead).backward()
    assert sae.W_dec.grad[:8].abs().max() > 0 and sae.W_dec.grad[8:].abs().max() == 0
    assert sae.W_enc.grad[:, :8].abs().max() > 0 and sae.W_enc.grad[:, 8:].abs().max() == 0


def test_the_dead_loss_takes_at_most_half_the_width():
    sae = _sae("topk")
    with torch.no_grad():
        sae.b_enc += 9.0  # all are above zero
    everyone = torch.arange(D_SAE)
    acts, error = _acts(2), torch.randn(2, D_IN, generator=_generator(3))
    auxk_loss(sae, (acts - sae.b_dec).detach(), error, everyone).backward()
    used = (sae.W_dec.grad.abs().amax(1) > 0).sum()
    assert D_IN // 2 <= used <= 2 * (D_IN // 2)  # at least one token's choice, at most two


def test_the_relu_loss_is_that_of_its_formula_and_warms_up():
    sae, acts = _sae("relu"), _acts()
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, D_SAE)[:, None]  # the norms count
    latents = ((acts - sae.b_dec) @ sae.W_enc + sae.b_enc).clamp_min(0)
    error = (acts - latents @ sae.W_dec - sae.b_dec).square().sum(1).mean() / D_IN
    l1 = (latents * sae.W_dec.norm(dim=1)).sum(1).mean() / D_IN
    for progress, share, strength in ((0.0, 0.1, 0), (0.05, 0.1, 0.5), (0.1, 0.1, 1), (0.7, 0.1, 1), (0.0, 0.0, 1)):
        context = _context(progress=progress, frac_l1_warmup=share, l1_coefficient=3.0)
        loss = float(sae.training_loss(acts, context).loss.detach())
        assert loss == pytest.approx(float((error + 3 * strength * l1).detach()), rel=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_folding_the_scale_changes_nothing_in_the_models_scale(arch):
    sae, acts, scale = _sae(arch), _acts(), 0.037
    with torch.no_grad():
        before, latents = sae(acts * scale) / scale, sae.encode(acts * scale) / scale
        sae.fold_scale(scale)
        torch.testing.assert_close(sae(acts), before, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sae.encode(acts), latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE))


def test_the_decoder_keeps_its_length():
    sae = _sae("topk")
    sae.training_loss(_acts(), _context()).loss.backward()
    assert ((sae.W_dec.grad * sae.W_dec).sum(1)).abs().max() > 1e-4
    sae.project_decoder_gradient()
    assert ((sae.W_dec.grad * sae.W_dec).sum(1)).abs().max() < 1e-6
    with torch.no_grad():
        sae.W_dec *= 3
    sae.normalize_decoder()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE))


def test_impossible_saes_are_refused():
    for k in (0, D_SAE + 1):
        with pytest.raises(ConfigError, match=r"\(k\)"):
            build_sae("topk", D_IN, D_SAE, k=k)
    with pytest.raises(ConfigError, match="topk"):
        build_sae("top-k", D_IN, D_SAE, k=1)


# ------------------------------------------------------------------------------ folders
@pytest.fixture
def folder(tmp_path: Path):
    def build(arch: str = "topk") -> Path:
        path = tmp_path / arch
        save_sae(_sae(arch), path, hook_point="layers.3", metadata={"model_name": "toy"})
        return path

    return build


def test_every_architecture_can_be_named_saved_and_read(folder):
    assert tuple(ARCHS) == ARCH_NAMES  # what --arch offers without importing torch
    for arch, kind in ARCHS.items():
        assert kind.arch == arch and set(kind.config_fields) <= {f.name for f in dataclasses.fields(SaeTrainConfig)}
        cfg = load_sae(folder(arch)).cfg
        assert cfg["architecture"] in SAELENS_ARCHS and cfg["metadata"]["workbench_arch"] == arch


@pytest.mark.filterwarnings("ignore")  # SAELens' own imports
@pytest.mark.parametrize("arch", ARCHS)
def test_saelens_reads_the_same_sae(folder, arch):
    from sae_lens import SAE

    path, acts = folder(arch), _acts()
    theirs, ours = SAE.load_from_disk(str(path), device="cpu"), load_sae(path)
    assert ours.hook_point == "layers.3" and theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    with torch.no_grad():
        # SAELens' TopK may return a sparse tensor
        latents = theirs.encode(acts)
        latents = latents.to_dense() if latents.is_sparse else latents
        torch.testing.assert_close(ours.encode(acts), latents, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours(acts), theirs(acts), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours(acts), _sae(arch)(acts), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"architecture": "gated"}, FileFormatError, "gated"),
        ({"architecture": None}, FileFormatError, "None"),
        ({"d_sae": D_SAE + 1}, ShapeError, "41"),
        ({"d_in": D_IN - 1}, ShapeError, "11"),
        ({"k": D_SAE + 1}, ConfigError, "41"),
        ({"normalize_activations": "layer_norm"}, FileFormatError, "layer_norm"),
        ({"apply_b_dec_to_input": False}, FileFormatError, "apply_b_dec_to_input"),
        ({"rescale_acts_by_decoder_norm": True}, FileFormatError, "rescale_acts_by_decoder_norm"),
    ],
)
def test_a_config_that_means_something_else_is_refused(folder, change, error, said):
    path = folder() / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=said):
        load_sae(path.parent)


@pytest.mark.parametrize("key", ["architecture", "d_in", "d_sae", "k"])
def test_an_incomplete_config_is_refused(folder, key):
    path = folder() / "cfg.json"
    cfg = json.loads(path.read_text())
    del cfg[key]
    path.write_text(json.dumps(cfg))
    with pytest.raises(FileFormatError, match=f"no {key}"):
        load_sae(path.parent)


def test_damaged_and_missing_files_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    path = folder()
    for text in ("{", "[]", "\x00"):
        broken = shutil.copytree(path, tmp_path / "broken", dirs_exist_ok=True)
        (broken / "cfg.json").write_text(text)
        with pytest.raises(FileFormatError, match=r"cfg\.json"):
            load_sae(broken)
    for name in ("cfg.json", WEIGHTS):
        lacking = shutil.copytree(path, tmp_path / f"without-{name}")
        (lacking / name).unlink()
        with pytest.raises(MissingFileError, match=name):
            load_sae(lacking)
    weights = path / WEIGHTS
    tensors, whole = load_file(weights), weights.read_bytes()
    weights.write_bytes(whole[:-40])
    with pytest.raises(FileFormatError, match=WEIGHTS):
        load_sae(path)
    save_file({**tensors, "W_enc": tensors["W_enc"].T.contiguous()}, weights)
    with pytest.raises(ShapeError, match="W_enc"):
        load_sae(path)
    save_file({k: v for k, v in tensors.items() if k != "b_enc"}, weights)
    with pytest.raises(ShapeError, match="b_enc"):
        load_sae(path)
