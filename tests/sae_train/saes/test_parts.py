"""A batch in parts: what processes and micro batches add up to is the loss, and every gradient, of the batch."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest
import torch

from sae_train.errors import ConfigError
from sae_train.run.processes import ALONE, Processes
from sae_train.saes import ARCHS, build_sae
from sae_train.saes.batch_topk import keep_largest
from sae_train.saes.losses.whole_batch import WholeBatch, batch_variance

torch.set_num_threads(1)


class Team:
    """Threads in the place of processes: what each of them has sent."""

    def __init__(self, count: int) -> None:
        self.barrier, self.sent = threading.Barrier(count, timeout=60), [()] * count


@dataclass(frozen=True)
class OneOf(Processes):
    """A thread that sums with the others as a process would."""

    team: Team = field(default_factory=lambda: Team(1))

    def _reduce(self, how, values):
        if self.count == 1:
            return
        self.team.sent[self.rank] = tuple(value.clone() for value in values)
        self.team.barrier.wait()
        for value, parts in zip(values, zip(*self.team.sent, strict=True), strict=True):
            stacked = torch.stack(parts)
            value.copy_(stacked.sum(0) if how == "SUM" else stacked.amin(0))
        self.team.barrier.wait()


def together(count: int, work) -> list:
    """Return what `work(processes)` gives in each of `count` threads that are one team."""
    team = Team(count)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, [OneOf(rank, count, team) for rank in range(count)]))


def _trained(sae, acts, context, batch=None):
    """Return loss, terms, gradients, who fired and the learned threshold, of one part."""
    result = sae.training_loss(acts, replace(context, batch=batch))
    gradients = torch.autograd.grad(result.loss, list(sae.parameters()), materialize_grads=True, allow_unused=True)
    return result, gradients, getattr(sae, "threshold", None)


# ------------------------------------------------------------------------------ processes
@pytest.mark.parametrize("n_dead", [0, 9])
@pytest.mark.parametrize("arch", ARCHS)
def test_the_parts_of_processes_add_up_to_the_batch(make_sae, make_acts, make_context, arch, n_dead):
    """AuxK's denominator, BatchTopK's choice and threshold, JumpReLU's L0, rates: all know the whole batch."""
    sae, acts = make_sae(arch, **({"jumprelu_revival": "auxk"} if arch == "jumprelu" else {})), make_acts(60)
    acts[:20] *= 3  # the first part has most of the largest latents and of the variance
    often = {"frequency_coefficient": 0.5, "max_frequency": 0.15} if n_dead else {}
    context = make_context(is_dead=torch.arange(40) < n_dead, auxk_alpha=1 / 4, **often)
    whole, gradients, threshold = _trained(copy.deepcopy(sae), acts, context)
    assert whole.terms.get("frequency", 1) > 0

    def work(processes):
        rows = acts[processes.part(len(acts))]
        return _trained(copy.deepcopy(sae), rows, context, WholeBatch.of(rows, processes=processes))

    parts = together(3, work)
    assert sum(p[0].loss.item() for p in parts) == pytest.approx(whole.loss.item(), rel=1e-12)
    for name, value in whole.terms.items():
        assert sum(p[0].terms[name].item() for p in parts) == pytest.approx(value.item(), rel=1e-12), name
    assert torch.equal(torch.stack([p[0].fired for p in parts]).any(0), whole.fired)
    for name, expected, *found in zip(dict(sae.named_parameters()), gradients, *(p[1] for p in parts), strict=True):
        torch.testing.assert_close(sum(found), expected, rtol=1e-9, atol=1e-12, msg=name)
    if threshold is not None:
        assert all(float(p[2]) == pytest.approx(float(threshold), rel=1e-12) for p in parts)
    apart = [_trained(copy.deepcopy(sae), rows, context)[0].loss.item() / 3 for rows in acts.chunk(3)]
    assert sum(apart) != pytest.approx(whole.loss.item(), rel=1e-3) or (
        arch == "relu" and not n_dead
    )  # only that one is a mean


@pytest.mark.parametrize(("n_kept", "guess"), [(1, 0.0), (30, 0.0), (30, 0.5), (30, 99.0), (170, 0.0), (500, 0.0)])
def test_the_largest_of_all_processes_are_kept(n_kept, guess):
    """One process has none of them, another most; 500 are more than are above zero."""
    pre_acts = (
        torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(4)) + torch.tensor([-9, 0.0, 2])[:, None, None]
    )
    expected = keep_largest(pre_acts.flatten(0, 1), n_kept)
    found = together(3, lambda p: keep_largest(pre_acts[p.rank], n_kept, guess, p))
    assert torch.equal(torch.cat([f.values for f in found]), expected.values)
    assert torch.equal(torch.cat([f.latents for f in found]), expected.latents)
    assert len(found[0].values) == 0 < len(found[2].values)


def test_sums_smallest_values_and_gathered_ones():
    def work(p):
        a, b, c = torch.tensor([1.0 + p.rank]), torch.tensor([[p.rank, 5 - p.rank]]), torch.tensor(3 * p.rank)
        p.sum_(a, b)
        low = torch.tensor([p.rank, -p.rank])
        p.min_(low)
        return a.tolist(), b.tolist(), low.tolist(), p.gather(c).tolist()

    assert together(3, work) == [([6.0], [[3, 12]], [0, -2], [0, 3, 6])] * 3
    assert work(Processes()) == ([1.0], [[0, 5]], [0, 0], [0])


def test_the_variance_is_that_of_all_rows(make_acts):
    acts = make_acts(60) * torch.arange(1, 61)[:, None]
    found = together(4, lambda p: float(batch_variance(acts[p.part(60)], p)))
    assert found == pytest.approx([float((acts - acts.mean(0)).square().sum())] * 4, rel=1e-12)


def test_processes_need_a_device_each(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    two = Processes(1, 2)
    assert Processes().own_device("mps") == "mps" and two.own_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert two.own_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert two.own_device("auto") == two.own_device("cuda") == "cuda:1"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for wanted in ("auto", "cuda", "cuda:0", "mps"):
        with pytest.raises(ConfigError, match="device"):
            two.own_device(wanted)


# ------------------------------------------------------------------------------ micro batches
def _micro(sae, acts, context, n: int):
    """Return the summed loss and gradients of n micro batches."""
    batch, sae = WholeBatch.of(acts, n_micro=n), copy.deepcopy(sae)
    parts = [_trained(sae, rows, context, batch) for rows in acts.chunk(n)]
    return sum(p[0].loss.item() for p in parts), [sum(g) for g in zip(*(p[1] for p in parts), strict=True)]


@pytest.mark.parametrize("arch", ["topk", "relu"])
def test_micro_batches_of_a_mean_over_tokens_are_the_batch(make_sae, make_acts, make_context, arch):
    sae, acts = make_sae(arch), make_acts(60)
    whole, gradients, _ = _trained(copy.deepcopy(sae), acts, make_context())
    loss, found = _micro(sae, acts, make_context(), 4)
    assert loss == pytest.approx(whole.loss.item(), rel=1e-12)
    for a, b in zip(found, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("arch", ["topk", "batch-topk", "matryoshka", "jumprelu"])
def test_micro_batches_are_near_the_batch_where_they_are_not_it(make_sae, make_acts, make_context, arch):
    """As the docstrings say of AuxK, of choices and of L0: each is a batch of its own, so another number, but near."""
    sae, acts = make_sae(arch), make_acts(480)
    context = make_context(is_dead=torch.arange(40) < 9)
    whole, _, _ = _trained(copy.deepcopy(sae), acts, context)
    loss, _ = _micro(sae, acts, context, 4)
    assert loss == pytest.approx(whole.loss.item(), rel=0.02)
    assert loss != pytest.approx(whole.loss.item(), rel=1e-9)


# ------------------------------------------------------------------------------ from step to step
@pytest.mark.parametrize(("count", "n_micro"), [(1, 4), (3, 1), (3, 2)])
def test_the_weight_of_an_annealed_penalty_is_that_of_the_whole_batch(
    make_sae, make_acts, make_context, count, n_micro
):
    acts, context = make_acts(60), make_context(progress=0.6, step_share=0.1)
    acts[:20] *= 3  # the ratios of the parts differ

    def stepped(processes=ALONE, n_micro=1):
        """Take a step; return loss and ratio of the next step's weight to this one's."""
        sae, rows = make_sae("relu", relu_p_end=0.2), acts[processes.part(len(acts))]
        own = replace(context, batch=WholeBatch.of(rows, n_micro=n_micro, processes=processes))
        results = [sae.training_loss(part, own) for part in rows.chunk(n_micro)]
        sae.after_step(own, {name: sum(r.terms[name] for r in results) for name in results[0].terms})
        return sum(r.loss.item() for r in results), float(sae.annealing.factor)

    loss, factor = stepped()
    parts = together(count, lambda processes: stepped(processes, n_micro))
    assert sum(p[0] for p in parts) == pytest.approx(loss, rel=1e-12)
    assert [p[1] for p in parts] == pytest.approx([factor] * count, rel=1e-12)
    assert abs(factor - 1) > 0.1


# ------------------------------------------------------------------------------ autocast
@pytest.mark.parametrize("arch", ARCHS)
def test_autocast_computes_products_in_bfloat16_and_nothing_else(make_acts, make_context, arch):
    sae, acts = build_sae(arch, 12, 40, k=4), make_acts(200).float()
    sae.init_weights(acts.mean(0), 0)
    sae.init_thresholds(acts)
    context = make_context(is_dead=torch.arange(40) < 9)
    exact, gradients, _ = _trained(copy.deepcopy(sae), acts, context)
    with torch.autocast("cpu", torch.bfloat16):
        result = copy.deepcopy(sae).training_loss(acts, context)
        low = copy.deepcopy(sae)
        found = low.training_loss(acts, context).loss
    found.backward()
    assert {p.grad.dtype for p in low.parameters()} == {torch.float32} == {result.loss.dtype}
    assert result.loss.item() == pytest.approx(exact.loss.item(), rel=0.03)
    assert result.loss.item() != exact.loss.item()
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(low.W_dec.grad.flatten(), gradients[2].flatten(), dim=0) > 0.98
