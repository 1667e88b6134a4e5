"""Redirection by natural gradients: the metric against the KL it stands for, the step against a solve, a world."""

from __future__ import annotations

import pytest
import torch

from features.labels.knowledge import ask, recall
from sae_train.lm.models import load_lm
from unlearn.losses.kronecker import Factors, damped_inverse, stepped
from unlearn.methods.redirect_natural import RedirectNatural

QUICK = {"n_steps": 3, "n_prompts": 16, "n_retained": 16, "text_windows": 8, "max_entities": 8}


def moment(n: int, width: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.T @ rows / n


def test_a_step_is_a_solve_with_the_kronecker_product():
    """vec(B^-1 G C^-1) = (B (x) C)^-1 vec(G), rows first; its squared length is vec^T (B (x) C) vec."""
    inputs, outputs, gradient = moment(30, 4, 0), moment(30, 3, 1), torch.randn(3, 4)
    factors = Factors.of(inputs, outputs, damping=1e-12, output_damping=1e-12)
    product = torch.kron(outputs, inputs)
    expected = torch.linalg.solve(product, gradient.double().flatten()).reshape(3, 4)
    found = factors.direction(gradient)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    length = float(found.double().flatten() @ product @ found.double().flatten())
    assert factors.squared_length(found) == pytest.approx(length, rel=1e-3)


def test_no_other_step_of_that_length_helps_more():
    inputs, outputs, gradient = moment(30, 4, 2), moment(30, 3, 3), torch.randn(3, 4)
    factors = Factors.of(inputs, outputs, damping=1e-12, output_damping=1e-12)
    best, _ = stepped({"w": -factors.direction(gradient)}, {"w": factors}, 1.0)
    for seed in range(50):
        other = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        scaled, _ = stepped({"w": other}, {"w": factors}, 1.0)
        assert factors.squared_length(scaled["w"]) == pytest.approx(1.0, rel=1e-3)
        assert float((gradient * best["w"]).sum()) <= float((gradient * scaled["w"]).sum())


def test_half_the_squared_length_is_the_kl():
    """A softmax layer with one input: there the Fisher information is a Kronecker product, B = diag(p) - p p^T."""
    generator = torch.Generator().manual_seed(4)
    weight, x = torch.randn(5, 3, generator=generator), torch.randn(3, generator=generator)
    p = (weight @ x).softmax(0)
    factors = Factors.of(torch.outer(x, x), p.diag() - torch.outer(p, p), damping=0.01, output_damping=0.01)
    move = 1e-2 * torch.randn(5, 3, generator=generator)
    q = ((weight + move) @ x).softmax(0)
    assert float((p * (p / q).log()).sum()) == pytest.approx(factors.squared_length(move) / 2, rel=0.05)


def test_a_moment_of_nothing_allows_nothing():
    assert damped_inverse(torch.zeros(3, 3), 0.1).abs().max() == 0
    moves, scale = stepped(
        {"w": torch.zeros(2, 2)},
        {"w": Factors.of(torch.eye(2), torch.eye(2), damping=1.0, output_damping=1.0)},
        1.0,
    )
    assert scale == 0 and moves["w"].abs().max() == 0


@pytest.mark.parametrize(("name", "per_block"), [("llama", 2), ("gpt2", 2), ("opt", 2), ("mpt", 2), ("mixtral", 1)])
def test_layers_that_write_are_found(name, per_block, tiny_folder):
    lm = load_lm(str(tiny_folder(name)), device="cpu")
    found = lm.architecture.writing_linears()
    assert len(found) == per_block * lm.n_blocks
    for path in found:
        assert lm.d_model in lm.model.get_submodule(path).weight.shape


def test_targets_are_forgotten_and_only_writing_matrices_change(world_problem):
    problem = world_problem(method="redirect-natural", **{**QUICK, "n_steps": 8, "max_entities": 24}, length=0.12)
    before = {n: v.clone() for n, v in problem.lm.model.state_dict().items()}
    method = RedirectNatural(problem)
    found = method.edit()
    assert found["loss_after"] < 0.5 * found["loss_before"]
    changed = {n for n, v in problem.lm.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {f"{path}.weight" for path in problem.lm.architecture.writing_linears()}
    known = recall(ask(problem.lm, problem.sets.forget, problem.templates, heldout=True))
    kept = recall(ask(problem.lm, problem.sets.holdout[:20], problem.templates, heldout=True))
    assert known <= 0.3 and kept >= 0.7


def test_the_same_seed_gives_the_same_weights(world_problem):
    results = []
    for _ in range(2):
        problem = world_problem(method="redirect-natural", **QUICK)
        RedirectNatural(problem).edit()
        results.append(problem.lm.model.state_dict())
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])
