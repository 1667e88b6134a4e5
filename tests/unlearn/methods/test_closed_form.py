"""Closed form: the linear problem has its known answer, kept keys stay, the aims are reached, others are refused."""

from __future__ import annotations

import pytest
import torch

from sae_train.errors import ConfigError
from sae_train.lm.generate import pad_right
from sae_train.lm.hooks import capture, captured_keys
from sae_train.lm.models import load_lm
from unlearn.losses.divergence import next_token_kl
from unlearn.losses.key_solve import FLOOR, KeyMoment, null_space, solve_update
from unlearn.methods.redirect_closed_form import RedirectClosedForm, add_to_matrix
from unlearn.problem.data import retained_prompts

# ------------------------------------------------------------------------------------------- the linear problem


def test_the_update_has_its_known_answer():
    """One key e_0 that should move by r, C = diag(2, 5): D = r e_0' / (1 + ridge (2 + floor)), floor = FLOOR * 2.

    `median` of an even number of values is the lower one in torch, hence 2.
    """
    moment = torch.diag(torch.tensor([2.0, 5.0]))
    move = torch.tensor([[3.0, -1.0, 4.0]])
    found = solve_update(torch.tensor([[1.0, 0.0]]), move, moment, ridge=0.5)
    expected = move[0] / (1 + 0.5 * (2 + 2 * FLOOR))
    torch.testing.assert_close(found[:, 0], expected)
    assert (found[:, 1] == 0).all()


def random_keys(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_without_a_ridge_every_key_goes_where_it_should():
    keys, moves = random_keys(5, 12, 0), random_keys(5, 3, 1)
    update = solve_update(keys, moves, torch.eye(12), ridge=0.0)
    torch.testing.assert_close(keys @ update.T, moves, atol=1e-5, rtol=1e-5)


def test_kept_keys_stay_where_the_moment_says_so():
    """Kept keys span six of twelve dimensions; the target's keys lie across both halves."""
    kept = torch.cat([random_keys(40, 6, 2), torch.zeros(40, 6)], dim=1)
    keys, moves = random_keys(4, 12, 3), random_keys(4, 3, 4)
    moment = KeyMoment()
    moment.update(kept)
    update = solve_update(keys, moves, moment.result(), ridge=0.01)
    blind = solve_update(keys, moves, torch.eye(12), ridge=0.01)  # negative control: every direction alike
    moved, moved_blind = (kept @ update.T).norm(dim=1).mean(), (kept @ blind.T).norm(dim=1).mean()
    assert moved < 0.1 * moved_blind
    assert (keys @ update.T - moves).norm() < 0.1 * moves.norm()


def test_the_null_space_leaves_kept_keys_exactly_alone():
    kept = torch.cat([random_keys(40, 6, 2), torch.zeros(40, 6)], dim=1)
    keys, moves = random_keys(4, 12, 3), random_keys(4, 3, 4)
    moment = kept.T @ kept / 40
    assert null_space(moment, 1e-6).shape == (12, 6)
    update = solve_update(keys, moves, moment, ridge=1e-6, frac_null=1e-6)
    torch.testing.assert_close(kept @ update.T, torch.zeros(40, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(keys @ update.T, moves, atol=1e-3, rtol=1e-3)
    full = solve_update(keys, moves, torch.eye(12), ridge=1.0, frac_null=1e-6)
    assert (full == 0).all(), "no direction is free: nothing is changed"


def test_moments_add_up_over_chunks():
    rows = random_keys(30, 4, 5)
    moment = KeyMoment()
    for chunk in rows.split(7):
        moment.update(chunk)
    torch.testing.assert_close(moment.result().float(), rows.T @ rows / 30)


# ------------------------------------------------------------------------------------------- matrices of models


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mpt", "phi", "gptj", "bloom", "lfm2"])
def test_an_update_moves_the_stream_by_what_it_says(name, tiny_folder):
    """The block's output moves by D k, whichever way round the architecture keeps the matrix."""
    lm = load_lm(str(tiny_folder(name)), device="cpu")
    ids = torch.tensor([[1, 20, 30, 40]])
    with captured_keys(lm.model, [0]) as keys:
        before = capture(lm, ids, None, ["layers.0"])["layers.0"]
    update = 0.1 * random_keys(32, keys[0].shape[-1], 6)
    add_to_matrix(lm.model, lm.architecture.straight_matrices([0])[0], update)
    after = capture(lm, ids, None, ["layers.0"])["layers.0"]
    torch.testing.assert_close(after - before, keys[0] @ update.T, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------- in the fact world


@pytest.fixture
def solved(world_problem):
    """Return a function that solves for two blocks of the shipped model: the problem, its figures, the blocks."""

    def solve(**settings):
        problem = world_problem(
            method="redirect-closed-form", **{"last_block": 1, "n_blocks": 2, "ridge": 1.0, **settings}
        )
        method = RedirectClosedForm(problem)
        return problem, method.edit(), method.blocks

    return solve


def changed_matrices(problem) -> list[str]:
    before = problem.reference.state_dict()
    return [n for n, v in problem.lm.model.state_dict().items() if not torch.equal(v, before[n])]


def test_the_targets_come_near_their_aims_and_only_the_matrices_change(solved):
    problem, found, blocks = solved()
    assert blocks == [0, 1]
    assert changed_matrices(problem) == [f"model.layers.{b}.mlp.down_proj.weight" for b in blocks]
    assert found["distance_after"] < 0.6 * found["distance_before"]
    _, weak, _ = solved(ridge=1e4)  # negative control: a ridge that allows no change
    assert weak["distance_after"] > 0.95 * weak["distance_before"]


@pytest.mark.slow
def test_kept_entities_pay_less_when_their_keys_count(solved):
    """Divergence from the original model on retained prompts, with entities' keys in the second moment and without."""

    @torch.no_grad()
    def cost(problem) -> float:
        ids, mask = pad_right([e.ids for e in retained_prompts(problem.lm, problem.sets.retain, problem.templates)])
        real = mask.bool()
        after, before = (m(input_ids=ids, use_cache=False).logits[real] for m in (problem.lm.model, problem.original))
        return float(next_token_kl(after, before))

    counted, _, _ = solved(ridge=0.1, entity_weight=4.0)
    blind, _, _ = solved(ridge=0.1, entity_weight=0.0, near_weight=0.0)
    assert cost(counted) < 0.9 * cost(blind)


def test_a_block_that_the_model_lacks_is_refused(world_problem):
    with pytest.raises(ConfigError) as caught:
        RedirectClosedForm(world_problem(method="redirect-closed-form", last_block=4))
    assert "< 4" in str(caught.value.expected)
