"""KL budget: the measure is its formula, the way back ends within the budget, a run with one goes no further."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from features.factworld import shipped_world
from sae_train.errors import ConfigError
from sae_train.lm.models import load_lm, round_to_stored, weights_hash
from sae_train.run.processes import Processes
from sae_train.storage.model_files import StoredModel
from unlearn.config import configure
from unlearn.finetuning.budget import SLACK, Budget, KlMeter, furthest_within
from unlearn.finetuning.finetune import trainable_parameters
from unlearn.methods import METHODS
from unlearn.removals.run import RemovalTask, run_removal
from unlearn.removals.unlearned import Unlearned

WINDOWS = [[1, 20, 30, 40, 50], [1, 7], [1, 60, 61, 62, 63, 64, 65, 66], [1, 9, 9, 9]]
LIMIT = 0.01


@pytest.fixture
def run(world_sae, world_analysis, world_labels, world_templates, world_targets, world_documents, tmp_path):
    """Return a function that unlearns on a fresh copy of the shipped model and returns what `run_removal` does."""

    def start(method="idk", out="out", *, documents=None, names=None, original=None, model=None, **settings):
        how = {k: settings.pop(k) for k in ("resume", "advance") if k in settings}
        quick = {"batch_size": 4, "warmup_steps": 1, "steps": 12, "lr": 2e-3, "check_every": 2}
        task = RemovalTask(
            model or load_lm(str(shipped_world()), device="cpu"),
            [world_sae],
            world_analysis,
            world_labels,
            world_templates,
            names or world_targets,
            configure(method, **{**quick, **settings}),
            documents=world_documents[:400] if documents is None else documents,
            original=original,
        )
        return run_removal(task, tmp_path / out, **how)

    return start


@pytest.fixture
def tiny(tiny_llama_dir):
    """A random model and a copy of it whose weights are a little off."""
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    other = replace(lm, model=copy.deepcopy(lm.model))
    generator = torch.Generator().manual_seed(3)
    for parameter in trainable_parameters(other.model, "full").values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return lm, other


# --------------------------------------------------------------------------------------------- the measure


@torch.no_grad()
def test_the_measure_is_the_mean_over_all_tokens(tiny):
    lm, other = tiny
    total, count = 0.0, 0
    for window in WINDOWS:
        p, q = (m.model(torch.tensor([window])).logits[0].double().softmax(-1) for m in (lm, other))
        total += float((p * (p.log() - q.log())).sum())
        count += len(window)
    assert total / count > 1e-3
    assert KlMeter(other, lm.model, WINDOWS).measure() == pytest.approx(total / count, rel=1e-4)
    assert KlMeter(lm, lm.model, WINDOWS).measure() == 0


def test_several_processes_measure_each_its_part(tiny):
    lm, other = tiny
    whole, sums = KlMeter(other, lm.model, WINDOWS).measure(), []

    class Half(Processes):
        def sum_(self, *values):
            sums.extend(v.clone() for v in values)

    for rank in range(2):
        KlMeter(other, lm.model, WINDOWS, Half(rank, 2)).measure()
    both = sums[0] + sums[1]
    assert float(both[0] / both[1]) == pytest.approx(whole, rel=1e-5)
    assert both[1] == sum(map(len, WINDOWS)) and min(s[1] for s in sums) > 0


# --------------------------------------------------------------------------------------------- the way back


@pytest.mark.parametrize(
    "kl_at",
    [
        lambda s: 5 * s**2,
        lambda s: 0.004 + s,
        lambda s: s**6 * 1e4,
        lambda s: 0.02 * abs(math.sin(9 * s)) + s,
        lambda s: float("nan") if s > 0.3 else s / 10,
    ],
)
def test_the_furthest_point_uses_the_budget_and_no_more(kl_at):
    share, kl = furthest_within(kl_at, LIMIT, start=kl_at(0.0), end=kl_at(1.0), has_full_size=True)
    assert kl == kl_at(share) and (1 - SLACK) * LIMIT <= kl <= LIMIT


def test_a_full_size_ends_the_way_and_without_one_it_goes_on():
    assert furthest_within(lambda s: s**2, 4.0, start=0.0, end=1.0, has_full_size=True) == (1.0, 1.0)
    share, kl = furthest_within(lambda s: s**2, 40.0, start=0.0, end=1.0, has_full_size=False)
    assert kl == share**2 and 38 <= kl <= 40


def test_a_step_beyond_the_budget_is_taken_in_part(tiny):
    lm, other = tiny
    changing = replace(lm, model=copy.deepcopy(lm.model))
    parameters = trainable_parameters(changing.model, "full")
    meter = KlMeter(changing, lm.model, WINDOWS)
    budget = Budget(meter, LIMIT, parameters, is_rounded=False)
    aims = trainable_parameters(other.model, "full")
    assert not budget.is_spent(), "nothing has changed"
    for name, parameter in parameters.items():
        parameter.data.copy_(aims[name])
    assert meter.measure() > LIMIT
    assert budget.is_spent()
    assert (1 - SLACK) * LIMIT <= budget.kl <= LIMIT
    assert meter.measure() == pytest.approx(budget.kl)
    start = trainable_parameters(lm.model, "full")
    shares = [
        float(((p - start[n]) * (aims[n] - start[n])).sum() / (aims[n] - start[n]).square().sum())
        for n, p in parameters.items()
    ]
    assert 0.05 < min(shares) and max(shares) - min(shares) < 1e-3, "one point of the line, for all parameters"


def test_the_state_is_measured_as_it_will_be_stored(tiny):
    """Weights that bfloat16 rounds back to where they were have cost nothing."""
    lm, _ = tiny
    lm = replace(lm, stored=StoredModel(source=lm.name, dtype=torch.bfloat16, exceptions={}))
    round_to_stored(lm)
    changing = replace(lm, model=copy.deepcopy(lm.model))
    parameters = trainable_parameters(changing.model, "full")
    meter = KlMeter(changing, lm.model, WINDOWS)
    budget = Budget(meter, 1e-9, parameters, is_rounded=True)
    for parameter in parameters.values():
        parameter.data *= 1 + 1e-3
    assert meter.measure() > 1e-9, "the control: unrounded it has"
    assert not budget.is_spent() and budget.kl == 0
    assert meter.measure() > 1e-9, "and the run goes on from the unrounded weights"


# --------------------------------------------------------------------------------------------- runs


def kl_of(found: Unlearned) -> float:
    return found.result["kl"]


@pytest.mark.slow
def test_a_run_says_what_it_cost_and_a_budget_holds_it(run):
    free = run("ga", "free", lr=1e-3)
    assert kl_of(free) > 2 * LIMIT and "budget_reached" not in free.result
    held = run("ga", "held", lr=1e-3, kl_budget=LIMIT)
    assert (1 - SLACK) * LIMIT <= kl_of(held) <= LIMIT and held.result["budget_reached"]
    early = run("ga", "early", lr=1e-5, kl_budget=LIMIT)
    assert 0 < kl_of(early) < LIMIT and not early.result["budget_reached"] and early.result["steps"] == 12


def test_a_budget_without_text_is_refused(run, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run(kl_budget=LIMIT, documents=())
    assert "kl_budget" in str(caught.value) and not (tmp_path / "out").exists()
    assert "kl" not in run(steps=1, documents=()).result


def test_a_chain_that_has_spent_the_budget_is_refused(run, world_lm):
    """What earlier removals cost counts: the original is the model before the first."""
    drifted = load_lm(str(shipped_world()), device="cpu")
    for parameter in trainable_parameters(drifted.model, "full").values():
        parameter.data *= 1.1
    with pytest.raises(ConfigError, match="spent before"):
        run(model=drifted, original=world_lm, kl_budget=LIMIT)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.slow
def test_the_budget_holds_for_every_method(run, method):
    own = {"ratio": 1.2} if method in ("crisp", "pisces") else {}  # of the small SAE few latents stand out
    found = run(method, kl_budget=LIMIT, max_loss_increase=3.0, **own)
    assert 0 < kl_of(found) <= LIMIT * 1.05
    assert found.result["budget_reached"] == (kl_of(found) >= (1 - SLACK) * LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("train", ["lora", "down_proj"])
def test_the_budget_holds_whatever_is_trained(run, train):
    found = run("ga", train=train, lr=1e-2, kl_budget=LIMIT, merge=True)
    assert (1 - SLACK) * LIMIT <= kl_of(found) <= LIMIT


@pytest.mark.slow
def test_a_start_in_closed_form_is_held_back_too(run):
    found = run("redirect", init="closed-form", kl_budget=1e-4)
    assert found.result["steps"] == 0 and 0.95e-4 <= kl_of(found) <= 1e-4


class Killed(Exception):
    """What stands for the end of a process."""


@pytest.mark.slow
@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_run_that_was_killed_ends_the_same(run, train):
    """Saved between two looks: the way back starts at a state that only the checkpoint still has."""
    settings = {"train": train, "lr": 3e-4 if train == "full" else 3e-3, "kl_budget": LIMIT, "merge": True}
    settings |= {"steps": 30, "check_every": 4, "save_every": 3}
    straight = run("ga", "straight", **settings)
    assert straight.result["budget_reached"] and 8 <= straight.result["steps"] < 30
    seen = []

    def stop(n=1, /, *, earlier=0, **terms):
        seen.append(n)
        if len(seen) == straight.result["steps"]:
            raise Killed

    with pytest.raises(Killed):
        run("ga", "broken", advance=stop, **settings)
    resumed = run("ga", "broken", resume=True, **settings)
    assert weights_hash(resumed.lm.model) == weights_hash(straight.lm.model)
    assert kl_of(resumed) == kl_of(straight)
