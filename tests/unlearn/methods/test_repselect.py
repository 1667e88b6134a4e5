"""RepSelect: damping by its formula, the whole edit against a few lines of its own, what it refuses, a run."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sae_train.errors import ConfigError, NumericalError
from sae_train.lm.adapters import attach_adapter
from sae_train.lm.models import load_lm
from unlearn.config import configure
from unlearn.methods.repselect import FIRST_SIZE, RepSelect, damped
from unlearn.problem.examples import own_answers


@pytest.fixture
def random_problem(world_problem):
    """The small task on a model of random weights."""

    def build(**settings):
        problem = world_problem(method="repselect", batch_size=1000, **settings)
        generator = torch.Generator().manual_seed(1)
        for parameter in problem.lm.model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        return problem

    return build


def test_damping_acts_on_singular_values_alone():
    """S_i becomes S_i (S_n / S_i)^2 for the first n, the others stay."""
    gradient = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    expected = torch.cat([values[2] ** 2 / values[:3], values[3:]])
    torch.testing.assert_close(damped(gradient, 3), left @ torch.diag(expected) @ right)
    torch.testing.assert_close(damped(gradient.T.contiguous(), 3), damped(gradient, 3).T)
    torch.testing.assert_close(damped(gradient, 1), gradient)  # the first alone has nothing to be measured by
    assert (damped(torch.zeros(3, 4), 2) == 0).all()
    experts = torch.stack([gradient, 2 * gradient])
    torch.testing.assert_close(damped(experts, 3), torch.stack([damped(gradient, 3), 2 * damped(gradient, 3)]))


def answers_loss(model, examples):
    """The mean loss of all answer tokens, one example after the other."""
    losses = []
    for example in examples:
        ids = torch.tensor([[*example.question, *example.answer]])
        logits = model(input_ids=ids).logits[0, len(example.question) - 1 : -1]
        losses.append(F.cross_entropy(logits, torch.tensor(example.answer), reduction="none"))
    return torch.cat(losses).mean()


def test_the_edit_is_that_of_a_few_lines(random_problem):
    """One batch, so one step of the adapter: B = -lr (alpha / r) G A^T, A as drawn; on it is W + (alpha / r) B A."""
    problem = random_problem(frac_components=0.25, lora_lr=3.0, lora_rank=4, lora_alpha=8)
    names = problem.lm.architecture.mlp_parameters()
    examples = own_answers(problem.lm, problem.sets, problem.templates)

    model = copy.deepcopy(problem.lm.model)
    weights = [model.get_parameter(n) for n in names]
    drawn = copy.deepcopy(model)
    attach_adapter(drawn, rank=4, alpha=8, seed=0, modules=[n.removesuffix(".weight") for n in names])
    first = torch.autograd.grad(answers_loss(model, examples), weights)
    for name, weight, gradient in zip(names, weights, first, strict=True):
        a = drawn.get_parameter(name.replace(".weight", ".lora_A.default.weight"))
        weight.data -= 3.0 * (8 / 4) ** 2 * gradient @ a.T @ a
    expected = []
    for gradient in torch.autograd.grad(answers_loss(model, examples), weights):
        left, values, right = torch.linalg.svd(gradient, full_matrices=False)
        n = round(0.25 * len(values))
        values[:n] = values[n - 1] ** 2 / values[:n]
        expected.append(left @ torch.diag(values) @ right)

    start = {n: p.detach().clone() for n, p in problem.lm.model.named_parameters()}
    found = RepSelect(problem).edit()
    moves = [problem.lm.model.get_parameter(n).detach() - start[n] for n in names]
    assert found["answer_loss_with_adapter"] < 0.95 * found["answer_loss"]
    flat, aim = (torch.cat([t.flatten() for t in m]) for m in (moves, expected))
    size = FIRST_SIZE * torch.cat([start[n].flatten() for n in names]).norm()
    assert flat.norm() == pytest.approx(float(size), rel=1e-3)
    assert F.cosine_similarity(flat, aim, dim=0) > 0.9999
    others = [n for n, p in problem.lm.model.named_parameters() if n not in names and not torch.equal(p, start[n])]
    assert others == []


def test_the_edit_makes_the_answers_unlikely(random_problem):
    problem = random_problem()
    examples = own_answers(problem.lm, problem.sets, problem.templates)
    before = answers_loss(problem.lm.model, examples).item()
    RepSelect(problem).edit()
    assert answers_loss(problem.lm.model, examples).item() > before + 0.01


def test_only_what_is_to_be_trained_changes(random_problem):
    problem = random_problem(train="down_proj", lora_lr=0.0)
    start = {n: p.detach().clone() for n, p in problem.lm.model.named_parameters()}
    found = RepSelect(problem).edit()
    changed = {n.rsplit(".", 2)[1] for n, p in problem.lm.model.named_parameters() if not torch.equal(p, start[n])}
    assert changed == {"down_proj"}
    assert found["answer_loss"] == found["answer_loss_with_adapter"], "no adapter"


def test_an_adapter_that_blows_up_is_an_error(random_problem):
    problem = random_problem(lora_lr=1e30)
    with pytest.raises(NumericalError):
        RepSelect(problem).edit()


@pytest.mark.parametrize("given", [{"kl_budget": None}, {"train": "lora"}])
def test_what_it_cannot_do_is_refused(given):
    with pytest.raises(ConfigError) as caught:
        configure("repselect", **given)
    assert next(iter(given)) in str(caught.value)


def test_a_mixture_of_experts_is_refused(random_problem, tiny_folder):
    problem = random_problem()
    with pytest.raises(ConfigError, match="MixtralForCausalLM"):
        RepSelect(replace(problem, lm=load_lm(str(tiny_folder("mixtral")), device="cpu")))
