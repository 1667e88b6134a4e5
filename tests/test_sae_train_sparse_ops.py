"""The sparse path against dense references in float64: outputs, every gradient, and which latents are chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sae_train.saes import build_sae
from sae_train.saes.base import StepContext
from sae_train.saes.batch_topk import support_of
from sae_train.saes.search import (
    SAME_CHOICE,
    TopKSearch,
    best_dtype,
    largest,
    n_candidates_for,
    same_choice,
    worth_grouping,
)
from sae_train.saes.sparse_ops import Support, row_dots, sparse_encode, sums_by_latent, support_decode
from sae_train.trainer import TrainState, in_memory_order

torch.set_num_threads(1)
BATCH, D_IN, D_SAE, K = 48, 24, 160, 6
FLOAT64 = {"rtol": 0, "atol": 1e-12}  # sums of about 50 terms near 1, in another order: some 1e-15 each
# Terms of about 1 with 24-bit mantissas, tens of them in a sum: 1e-6; the gradients here are below 1.
FLOAT32 = {"rtol": 1e-4, "atol": 2e-6}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _support(k: int = K, batch: int = BATCH) -> tuple[Support, torch.Tensor]:
    indices = torch.stack([torch.randperm(D_SAE, generator=_generator(i))[:k] for i in range(batch)])
    return Support.of_rows(indices, D_SAE), indices


def _ragged() -> tuple[Support, torch.Tensor]:
    """A support with rows of different sizes, empty ones among them, and its mask."""
    mask = torch.rand(BATCH, D_SAE, generator=_generator(0)) < 0.05
    mask[[0, 7, BATCH - 1]] = False
    rows, latents = mask.nonzero(as_tuple=True)
    starts = torch.searchsorted(rows, torch.arange(BATCH))
    return Support(latents, starts, D_SAE), mask


def _weights(dtype=torch.float64, seed: int = 1) -> dict[str, torch.Tensor]:
    shapes = {"x": (BATCH, D_IN), "W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    return {
        name: torch.randn(shape, generator=_generator(seed + i), dtype=torch.float64).to(dtype).requires_grad_()
        for i, (name, shape) in enumerate(shapes.items())
    }


# ------------------------------------------------------------------------------ the products
@pytest.mark.parametrize("kind", ["k each", "ragged"])
def test_products_over_a_support_are_the_dense_ones(kind):
    if kind == "ragged":
        support, mask = _ragged()
    else:
        support, indices = _support()
        mask = torch.zeros(BATCH, D_SAE, dtype=torch.bool).scatter(1, indices, True)
    w = {k: v.detach() for k, v in _weights().items()}
    dense = torch.zeros(BATCH, D_SAE, dtype=torch.float64)
    values = torch.randn(len(support.latents), generator=_generator(5), dtype=torch.float64)
    dense[support.rows, support.latents] = values
    assert torch.equal(dense != 0, mask)
    torch.testing.assert_close(support_decode(values, support, w["W_dec"]), dense @ w["W_dec"], **FLOAT64)
    torch.testing.assert_close(sums_by_latent(values, w["x"], support), dense.T @ w["x"], **FLOAT64)
    dots = (w["x"] @ w["W_dec"].T)[support.rows, support.latents]
    torch.testing.assert_close(row_dots(w["x"], w["W_dec"], support), dots, **FLOAT64)
    order, rows, starts, latents = support.by_latent
    assert torch.equal(latents, support.latents[order]) and torch.equal(rows, support.rows[order])
    assert torch.equal(starts.diff(append=torch.tensor([len(rows)])), mask.sum(0))
    assert torch.equal(support.latents[order], support.latents.sort().values)


def test_a_support_like_another_is_the_one_sorted_anew():
    """Each entry in a row of its own half: what Matryoshka does with its blocks."""
    support, _ = _ragged()
    groups = 2 * support.rows + (support.latents >= D_SAE // 2)
    ordered = groups.argsort(stable=True)
    alike = support_of(support.latents, groups, 2 * BATCH, D_SAE, alike=support)
    anew = Support(support.latents, alike.starts, D_SAE)
    assert torch.equal(ordered, torch.arange(len(groups))) and torch.equal(alike.rows, anew.rows)
    for a, b in zip(alike.by_latent, anew.by_latent, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(alike.by_latent.rows, support.by_latent.rows)


@pytest.mark.parametrize("columns_together", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_encoding_has_the_gradients_of_the_dense_product(columns_together, given):
    support, _ = _ragged()
    w = _weights()
    if columns_together:
        w["W_enc"] = w["W_enc"].detach().T.contiguous().T.requires_grad_()
    upstream = torch.randn(len(support.latents), generator=_generator(9), dtype=torch.float64)

    def dense():
        return ((w["x"] - w["b_dec"]) @ w["W_enc"] + w["b_enc"])[support.rows, support.latents]

    names = ("x", "W_enc", "b_enc", "b_dec")
    expected = torch.autograd.grad((dense() * upstream).sum(), [w[n] for n in names])
    values = dense().detach() if given else None
    through = sparse_encode(w["x"] - w["b_dec"], w["W_enc"], w["b_enc"], support, values=values)
    torch.testing.assert_close(through, dense(), **FLOAT64)
    for a, b in zip(torch.autograd.grad((through * upstream).sum(), [w[n] for n in names]), expected, strict=True):
        torch.testing.assert_close(a, b, **FLOAT64)
    # With a detached input, b_dec is reached by the short way, and by it alone.
    centered = (w["x"] - w["b_dec"]).detach()
    short = sparse_encode(centered, w["W_enc"], w["b_enc"], support, values=values, b_dec=w["b_dec"])
    for a, b in zip(
        torch.autograd.grad((short * upstream).sum(), [w[n] for n in names[1:]]), expected[1:], strict=True
    ):
        torch.testing.assert_close(a, b, **FLOAT64)


def test_gradients_pass_a_numerical_check():
    support, _ = _support(k=3, batch=5)
    w = {k: v.detach()[:5].requires_grad_() if k == "x" else v for k, v in _weights().items()}

    def decode(values, W_dec):
        return support_decode(values, support, W_dec)

    def encode(x, W_enc, b_enc):
        return sparse_encode(x, W_enc, b_enc, support)

    values = torch.rand(15, dtype=torch.float64, generator=_generator(3)).requires_grad_()
    assert torch.autograd.gradcheck(decode, (values, w["W_dec"]), fast_mode=True)
    assert torch.autograd.gradcheck(encode, (w["x"], w["W_enc"], w["b_enc"]), fast_mode=True)


# ------------------------------------------------------------------------------ the whole loss
def _dense_loss(w: dict[str, torch.Tensor], dead: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas of the TopK SAE with full matrices, and which latents fired."""

    def variance(a):
        return (a - a.mean(0)).square().sum()

    def keep(scores, k):
        top = torch.topk(scores, k, dim=1)
        return torch.zeros_like(scores).scatter(1, top.indices, top.values.relu())

    pre_acts = (w["x"] - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    latents = keep(pre_acts, K)
    recon = latents @ w["W_dec"] + w["b_dec"]
    loss = (w["x"] - recon).square().sum() / variance(w["x"].detach())
    n_dead = int(dead.sum())
    if n_dead:
        error = (w["x"] - recon).detach()
        scores = torch.where(dead, pre_acts, -torch.inf)
        error_hat = keep(scores, min(D_IN // 2, n_dead)) @ w["W_dec"]
        loss = loss + alpha * (error - error_hat).square().sum() / variance(error)
    return loss, (latents > 0).any(0)


def _sae(dtype: torch.dtype, device: str = "cpu", seed: int = 1):
    """A TopK SAE of random weights, and its batch."""
    sae = build_sae("topk", D_IN, D_SAE, k=K).to(dtype).to(device)
    w = {k: v.detach() for k, v in _weights(dtype, seed).items()}
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(sae, name).copy_(w[name])
        sae.b_enc -= 8.0  # some of the k largest are below zero
    return sae, w["x"].to(device)


def _context(dead: torch.Tensor, alpha: float) -> StepContext:
    return StepContext(dead, progress=1.0, auxk_alpha=alpha, l1_coefficient=0.0, l1_warmup_share=0.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("search", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_dead", [0, 5, D_IN // 2, 60])  # none, all of them on, exactly k_aux, more than k_aux
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_loss_and_every_gradient_are_the_dense_ones(dtype, n_dead, search, device):
    sae, x = _sae(dtype, device)
    sae.search_dtype = search
    dead = torch.arange(D_SAE, device=device) % 2 == 0
    dead &= dead.cumsum(0) <= n_dead
    result = sae.training_loss(x, _context(dead, alpha=0.5))
    result.loss.backward()
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    w = {n: getattr(sae, n).detach().cpu().double().requires_grad_() for n in names} | {"x": x.cpu().double()}
    loss, fired = _dense_loss(w, dead.cpu(), alpha=0.5)
    expected = torch.autograd.grad(loss, [w[n] for n in names])
    close = FLOAT64 if dtype == torch.float64 else FLOAT32
    torch.testing.assert_close(result.loss.detach().cpu().double(), loss.detach(), **close)
    assert torch.equal(result.fired.cpu(), fired) and 0 < fired.sum() < D_SAE
    for name, gradient in zip(names, expected, strict=True):
        own = getattr(sae, name).grad
        assert own.stride() == getattr(sae, name).stride(), name  # what fused Adam relies on
        torch.testing.assert_close(own.cpu().double(), gradient, **close, msg=lambda m, name=name: f"{name}: {m}")
    assert (float(result.terms["auxk"]) > 0) == (n_dead > 0)


def test_given_dead_latents_are_those_of_the_mask():
    sae, x = _sae(torch.float64)
    context = _context(torch.arange(D_SAE) < 9, alpha=0.5)
    loss = sae.training_loss(x, context).loss
    assert torch.equal(loss, sae.training_loss(x, replace(context, dead_latents=torch.arange(9))).loss)
    assert loss != sae.training_loss(x, replace(context, dead_latents=torch.arange(8))).loss


def test_the_same_step_gives_the_same_bits():
    gradients = []
    for _ in range(2):
        sae, x = _sae(torch.float32)
        sae.training_loss(x, _context(torch.arange(D_SAE) < 40, alpha=0.5)).loss.backward()
        gradients.append([p.grad.clone() for p in sae.parameters()])
    assert all(map(torch.equal, *gradients))


# ------------------------------------------------------------------------------ the search
@pytest.mark.parametrize("d_sae", [160, 1024, 1000, 1001, 4096])
@pytest.mark.parametrize("k", [1, 6, 32])
def test_the_search_finds_the_k_largest(d_sae, k):
    scores = torch.randn(70, d_sae, generator=_generator(2))
    found, expected = largest(scores, k), torch.topk(scores, k, dim=1)
    assert torch.equal(found.values.sort(descending=True).values, expected.values)
    assert torch.equal(scores.gather(1, found.indices), found.values)
    assert same_choice(expected.indices, found.indices) == 1


def test_groups_are_used_where_they_help():
    assert worth_grouping(1024, 6) and not worth_grouping(1001, 6) and not worth_grouping(160, 32)


@pytest.mark.parametrize("d_sae", [100, 200])  # without groups and with them
def test_a_bias_is_added_before_the_search(d_sae):
    scores, bias = torch.randn(150, d_sae, generator=_generator(1)), 3 * torch.randn(d_sae, generator=_generator(2))
    expected = torch.topk(scores + bias, 5, dim=1)
    found = largest(scores.clone(), 5, bias=bias)
    assert torch.equal(found.values.sort(descending=True).values, expected.values)
    assert torch.equal(found.indices.sort().values, expected.indices.sort().values)


def test_ties_give_k_different_latents():
    scores = torch.ones(8, 1024)
    scores[:, ::3] = 2.0
    found = largest(scores, 16)
    assert all(len(set(row.tolist())) == 16 for row in found.indices)
    assert (found.values == 2).all()


def test_nan_is_not_passed_over():
    """A diverged run is noticed by its loss: NaN has to be among the k largest."""
    x = torch.randn(4, D_IN, generator=_generator(0))
    x[1, 3] = torch.nan
    for dtype in ("float32", "bfloat16"):
        values = TopKSearch(K)(x, torch.randn(1024, D_IN).T, torch.zeros(1024), dtype).values
        assert values.isnan().any(dim=1).tolist() == [False, True, False, False]


def test_a_search_in_parts_is_the_same(monkeypatch):
    x, W, b = torch.randn(100, D_IN), torch.randn(1024, D_IN).T, torch.randn(1024)
    whole = TopKSearch(K)(x, W, b)
    monkeypatch.setattr("sae_train.saes.search.SCRATCH_BYTES", 1)
    monkeypatch.setattr("sae_train.saes.search.FEWEST_ROWS", 7)
    parts = TopKSearch(K)(x, W, b)
    torch.testing.assert_close(parts.values.sort().values, whole.values.sort().values)
    assert same_choice(whole.indices, parts.indices) == 1


def _like_activations(n: int, d_in: int) -> torch.Tensor:
    """Sums of a few of many directions on a common mean, with noise and two coordinates that dwarf the others."""
    directions = F.normalize(torch.randn(400, d_in, generator=_generator(0)), dim=1)
    on = torch.rand(n, 400, generator=_generator(1)) < 0.02
    acts = (on * torch.rand(n, 400, generator=_generator(2))) @ directions * 4
    acts += 0.2 * torch.randn(n, d_in, generator=_generator(3)) + 1
    acts[:, :2] *= 30
    return acts


def test_bfloat16_candidates_hold_the_exact_choice_and_exact_values():
    acts = _like_activations(512, 64)
    sae = build_sae("topk", 64, 1024, k=16)
    sae.init_weights(acts.mean(0), seed=0)
    with torch.no_grad():
        sae.W_enc += 0.02 * torch.randn(64, 1024, generator=_generator(5))
        centered = acts - sae.b_dec
        exact, close = (TopKSearch(16)(centered, sae.W_enc, sae.b_enc, name) for name in ("float32", "bfloat16"))
        low = centered.bfloat16() @ sae.W_enc.bfloat16()
        few = torch.topk(low, 16, dim=1).indices
    assert same_choice(exact.indices, close.indices) >= SAME_CHOICE
    assert same_choice(exact.indices, few) < SAME_CHOICE  # without the extra candidates it would show
    exact_values = sae.pre_acts(acts).detach().gather(1, close.indices)
    torch.testing.assert_close(close.values, exact_values, rtol=1e-4, atol=1e-4)
    assert n_candidates_for(16) == 24


@pytest.mark.parametrize(("seconds", "expected"), [((1.0, 2.0), "bfloat16"), ((1.0, 1.2), "float32")])
def test_bfloat16_is_taken_where_it_is_much_faster(monkeypatch, seconds, expected):
    times = iter(seconds)
    monkeypatch.setattr("sae_train.saes.search._seconds", lambda work, device: next(times))
    acts = _like_activations(512, 64)
    W_enc = F.normalize(torch.randn(1024, 64, generator=_generator(4)), dim=1).T
    assert best_dtype(acts - acts.mean(0), W_enc, torch.zeros(1024), 16) == expected


def test_bfloat16_is_not_taken_where_it_finds_others(monkeypatch):
    """All pre-activations within a bfloat16 step of each other: speed is no reason."""
    times = iter((1.0, 9.0))
    monkeypatch.setattr("sae_train.saes.search._seconds", lambda work, device: next(times))
    W_enc = (torch.ones(1024, 64) + 1e-4 * torch.randn(1024, 64, generator=_generator(0))).T
    assert best_dtype(torch.ones(512, 64), W_enc, torch.zeros(1024), 16) == "float32"


# ------------------------------------------------------------------------------ the optimizer
def _state(sae, *, fused: bool) -> TrainState:
    none = torch.zeros(0, dtype=torch.int64)
    return TrainState(sae, torch.optim.Adam(map(in_memory_order, sae.parameters()), fused=fused), none, none, none)


@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_adams_with_gradients_of_length_one(fused):
    sae, _ = _sae(torch.float32)
    state = _state(sae, fused=fused)
    plain = {name: p.detach().clone().requires_grad_() for name, p in sae.named_parameters()}
    optimizer = torch.optim.Adam(plain.values(), lr=0.01)
    for step in range(3):
        gradients = {n: torch.randn(p.shape, generator=_generator(step)) * 10.0**step for n, p in plain.items()}
        length = sum(g.square().sum() for g in gradients.values()).sqrt()
        for name, parameter in sae.named_parameters():
            parameter.grad = torch.empty_like(parameter).copy_(gradients[name])
            plain[name].grad = gradients[name] / length
        state.hand_over_gradients()
        state.adam_step(0.01)
        optimizer.step()
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter, plain[name], rtol=1e-5, atol=1e-6)


def test_no_gradient_is_no_step():
    sae, _ = _sae(torch.float32)
    state, before = _state(sae, fused=True), sae.W_enc.detach().clone()
    for parameter in sae.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.hand_over_gradients()
    state.adam_step(0.01)
    assert torch.equal(before, sae.W_enc)


def test_adam_in_memory_order_is_adam():
    weights, gradient = torch.randn(9, 5, generator=_generator(0)), torch.randn(9, 5, generator=_generator(1))
    own, plain = torch.nn.Parameter(weights.clone().T), torch.nn.Parameter(weights.T.contiguous())
    as_stored = in_memory_order(own)
    assert as_stored.is_contiguous() and as_stored.data_ptr() == own.data_ptr()
    for parameter, grad in ((as_stored, gradient), (plain, gradient.T.contiguous())):
        optimizer = torch.optim.Adam([parameter], lr=0.1, fused=True)
        for _ in range(3):
            parameter.grad = grad.clone()
            optimizer.step()
    assert torch.equal(own, plain) and not torch.equal(own, weights.T)
