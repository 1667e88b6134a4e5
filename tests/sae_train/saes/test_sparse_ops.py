"""The sparse path against dense references in float64: outputs, every gradient, and which latents are chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sae_train.saes import build_sae
from sae_train.saes.base import StepContext
from sae_train.saes.batch_topk import support_of
from sae_train.saes.sparse_ops import Support, row_dots, sparse_encode, sums_by_latent, support_decode
from sae_train.saes.topk import TopKSae
from sae_train.saes.topk_search import plain_top_k, top_k
from sae_train.saes.topk_search.candidates import Checked, Found, among_candidates
from sae_train.saes.topk_search.choice import best_dtype, same_choice
from sae_train.saes.topk_search.int8_product import Int8Product, in_whole_numbers
from sae_train.saes.topk_search.memory import Memory
from sae_train.saes.topk_search.strongest import FloatScores, strongest
from sae_train.training.jobs import TrainState, in_memory_order

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


def test_firings_are_the_entries_above_zero():
    support = Support.of_rows(torch.tensor([[4, 0, 1], [4, 1, 2]]), 6)
    counts = support.counts(torch.tensor([2.0, 0.0, -1.0, 1.0, 3.0, 0.5]))
    assert counts.tolist() == [0, 1, 1, 0, 2, 0]


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
    return StepContext(dead, progress=1.0, auxk_alpha=alpha, l1_coefficient=0.0, frac_l1_warmup=0.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("search", ["float32", "bfloat16", "int8"])
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
SEARCHES = ["float32", "bfloat16", "int8"]


def _largest(x, W_enc, b_enc, k):
    """Return the k largest pre-activations of each row in float64, ascending, and their latents."""
    found = torch.topk(x.double() @ W_enc.double() + b_enc.double(), k, dim=1)
    return found.values.flip(1), found.indices


@pytest.mark.parametrize("n", [1, 6, 48])
@pytest.mark.parametrize("width", [160, 1000, 1001, 4096])  # 1001: no groups of four
def test_the_strongest_are_the_largest(width, n):
    product, bias = torch.randn(150, width, generator=_generator(2)), torch.randn(width, generator=_generator(3))
    found, all_scores = strongest(FloatScores(product, bias), n), product + bias
    expected = torch.topk(all_scores, n, dim=1)
    assert torch.equal(found.scores, all_scores.gather(1, found.latents))
    # Scores are told apart to about 12 bits.
    torch.testing.assert_close(found.scores.sort(descending=True).values, expected.values, rtol=2**-10, atol=0)
    left_out = all_scores.scatter(1, found.latents, -torch.inf).amax(dim=1)
    assert (left_out <= found.ceiling).all()
    assert (found.ceiling <= found.scores.amin(dim=1) * (1 + 2**-10)).all()


def test_of_scores_below_zero_any_are_the_strongest():
    found = strongest(FloatScores(-torch.rand(5, 64), torch.zeros(64)), 3)
    assert (found.scores < 0).all() and (found.ceiling == 0).all()
    assert all(len(set(row.tolist())) == 3 for row in found.latents)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(("d_sae", "k"), [(160, 6), (1024, 1), (1000, 16), (1001, 16), (4096, 32)])
def test_the_search_finds_the_k_largest(d_sae, k, search):
    x, b = torch.randn(70, D_IN, generator=_generator(1)), torch.randn(d_sae, generator=_generator(2))
    W = torch.randn(d_sae, D_IN, generator=_generator(3)).T
    values, indices = _largest(x, W, b, k)
    found = top_k(x, W, b, k, dtype=search)
    torch.testing.assert_close(found.values.sort().values.double(), values, rtol=1e-5, atol=1e-5)
    assert same_choice(indices, found.indices) == 1


@pytest.mark.parametrize("search", SEARCHES)
def test_ties_give_k_different_latents(search):
    W = torch.ones(D_IN, 1024)
    W[:, ::3] = 2.0
    found = top_k(torch.ones(8, D_IN), W, torch.zeros(1024), 16, dtype=search)
    assert all(len(set(row.tolist())) == 16 for row in found.indices)
    assert (found.values == 2 * D_IN).all()


@pytest.mark.parametrize("broken", ["row", "latent"])
@pytest.mark.parametrize("search", SEARCHES)
def test_nan_is_not_passed_over(search, broken):
    """A diverged run is noticed by its loss: NaN has to be among the k largest."""
    x, W = torch.randn(4, D_IN, generator=_generator(0)), torch.randn(1024, D_IN).T.contiguous()
    (x[1] if broken == "row" else W[:, 5])[:] = -torch.nan
    found = top_k(x, W, torch.zeros(1024), K, dtype=search).values.isnan().any(dim=1)
    assert found.tolist() == ([False, True, False, False] if broken == "row" else [True] * 4)


def test_a_search_in_parts_is_the_same(monkeypatch):
    x, W, b = torch.randn(100, D_IN), torch.randn(1024, D_IN).T, torch.randn(1024)
    for search in SEARCHES:
        whole = top_k(x, W, b, K, dtype=search)
        with monkeypatch.context() as patch:
            patch.setattr("sae_train.saes.topk_search.memory.SCRATCH_BYTES", 1)
            patch.setattr("sae_train.saes.topk_search.memory.FEWEST_ROWS", 7)
            parts = top_k(x, W, b, K, dtype=search)
        torch.testing.assert_close(parts.values.sort().values, whole.values.sort().values)
        assert same_choice(whole.indices, parts.indices) == 1


def test_whole_numbers_are_within_half_a_step():
    matrix, factor = torch.randn(300, 20, generator=_generator(0)), torch.rand(20) + 0.1
    last = torch.linspace(-9, 9, 300)
    whole, steps = in_whole_numbers(matrix, factor, last, alike=4)
    assert torch.equal(steps[:75], steps[75:150]) and whole.shape == (300, 32) and not whole[:, 21:].any()
    expected = torch.cat([matrix * factor, last.unsqueeze(1)], dim=1)
    assert (whole[:, :21] * steps - expected).abs().le(0.5001 * steps).all()
    assert whole.abs().view(4, 75, 32).amax(dim=(0, 2)).eq(127).all()  # no step is larger than it has to be


def test_a_sum_of_whole_numbers_is_nearly_the_product():
    acts = _like_activations(512, 64)
    W, b = torch.randn(1024, 64, generator=_generator(4)) / 8, torch.randn(1024, generator=_generator(5))
    scores = Int8Product(acts, W, b, 24).scores(slice(0, 512), torch.empty(512, 1024, dtype=torch.int32))
    exact, every = acts @ W.T + b, torch.arange(1024).expand(512, -1)
    assert (scores.at(every) - exact).std() < 0.02 * exact.std()
    assert torch.equal(scores.maxima(4) * scores.row_step, scores.at(every).view(512, 4, 256).amax(dim=1))


def _like_activations(n: int, d_in: int) -> torch.Tensor:
    """Sums of a few of many directions on a common mean, with noise and two coordinates that dwarf the others."""
    directions = F.normalize(torch.randn(400, d_in, generator=_generator(0)), dim=1)
    on = torch.rand(n, 400, generator=_generator(1)) < 0.02
    acts = (on * torch.rand(n, 400, generator=_generator(2))) @ directions * 4
    acts += 0.2 * torch.randn(n, d_in, generator=_generator(3)) + 1
    acts[:, :2] *= 30
    return acts


def _trained(acts: torch.Tensor, k: int) -> TopKSae:
    """Return an SAE of 1,024 latents as it might be after some steps."""
    sae = build_sae("topk", acts.shape[1], 1024, k=k)
    sae.init_weights(acts.mean(0), seed=0)
    with torch.no_grad():
        sae.W_enc += 0.02 * torch.randn(sae.W_enc.shape, generator=_generator(5))
    return sae


@pytest.mark.parametrize("search", ["bfloat16", "int8"])
def test_candidates_hold_the_exact_choice_and_exact_values(search):
    acts = _like_activations(512, 64)
    sae = _trained(acts, 16)
    centered = (acts - sae.b_dec).detach()
    values, indices = _largest(centered, sae.W_enc, sae.b_enc, 16)
    found = top_k(centered, sae.W_enc, sae.b_enc, 16, dtype=search)
    assert same_choice(indices, found.indices) == 1
    torch.testing.assert_close(found.values.sort().values.double(), values, rtol=1e-4, atol=1e-4)
    # Some rows of int8 are searched again, and the others need it not.
    near, sure = among_candidates(centered, sae.W_enc, sae.b_enc, 16, search, Memory())
    assert sure.float().mean() > 0.5
    assert search == "bfloat16" or not sure.all()
    right = torch.tensor([set(a.tolist()) == set(b.tolist()) for a, b in zip(indices, near.indices, strict=True)])
    assert right[sure].all()


def test_rows_that_are_not_sure_are_searched_again(monkeypatch):
    """Candidates that are all wrong are noticed and replaced."""
    acts = torch.randn(64, 64, generator=_generator(0))
    W, b = torch.randn(64, 1024, generator=_generator(1)), torch.zeros(1024)
    none = torch.zeros(64, dtype=torch.bool)
    wrong = Found(torch.zeros(64, 16), torch.zeros(64, 16, dtype=torch.int64))
    monkeypatch.setattr("sae_train.saes.topk_search.among_candidates", lambda *_: Checked(wrong, none))
    assert same_choice(_largest(acts, W, b, 16)[1], top_k(acts, W, b, 16, dtype="int8").indices) == 1


def test_the_plain_search_is_torchs_topk_and_taken_where_latents_are_few():
    acts, b = torch.randn(64, 40, generator=_generator(0)), torch.randn(160, generator=_generator(2))
    W, k = torch.randn(40, 160, generator=_generator(1)), 20  # 30 candidates of 160 latents would spare no work
    expected = torch.topk(torch.addmm(b, acts, W), k, dim=1, sorted=False)
    for found in (plain_top_k(acts, W, b, k, Memory()), *(top_k(acts, W, b, k, dtype=search) for search in SEARCHES)):
        assert torch.equal(found.values, expected.values) and torch.equal(found.indices, expected.indices)
    assert plain_top_k(acts[:0], W, b, k, Memory()).indices.shape == (0, k)


@pytest.mark.parametrize(
    ("fast", "d_sae", "expected"), [(True, 4096, "int8"), (False, 4096, "float32"), (True, 64, "float32")]
)
def test_int8_is_taken_where_the_processor_has_it_and_it_pays(monkeypatch, fast, d_sae, expected):
    monkeypatch.setattr("sae_train.saes.topk_search.choice.int8_is_fast", lambda: fast)
    monkeypatch.setattr("sae_train.saes.topk_search.choice.INT8_PAYS", 64 * 1024)
    W_enc = F.normalize(torch.randn(d_sae, 64, generator=_generator(4)), dim=1).T
    assert best_dtype(torch.randn(512, 64, generator=_generator(1)), W_enc, torch.zeros(d_sae), 4) == expected


def test_int8_is_not_taken_where_most_rows_would_be_searched_again(monkeypatch):
    """All pre-activations within a step of each other."""
    monkeypatch.setattr("sae_train.saes.topk_search.choice.int8_is_fast", lambda: True)
    monkeypatch.setattr("sae_train.saes.topk_search.choice.INT8_PAYS", 64 * 1024)
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
