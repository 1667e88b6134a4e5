"""The baselines: every loss against its formula worked out by hand, every method's gradient, short runs."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from features.entities.entities import Entity
from features.factworld import shipped_world
from features.labels.knowledge import ask, recall
from sae_train.errors import CollapseError, ConfigError
from sae_train.lm.generate import continuation_log_probs
from sae_train.lm.models import load_lm, weights_hash
from unlearn.config import configure
from unlearn.finetuning.finetune import Objective, Preparing, WeightEdit
from unlearn.methods import METHODS, build_method
from unlearn.methods.crisp import salient_latents
from unlearn.methods.ga import ascent
from unlearn.methods.lunar import shift_distance
from unlearn.methods.npo import npo_loss
from unlearn.methods.rmu import misdirection
from unlearn.methods.simnpo import simnpo_loss
from unlearn.problem.examples import answer_log_probs, own_answers, refusal, refused_answers
from unlearn.removals.run import RemovalTask, run_removal
from unlearn.settings.answers import NpoSettings
from unlearn.settings.registry import METHOD_SETTINGS, read_params

LOSSES = ("ga", "graddiff", "npo", "npo-sam", "simnpo", "idk", "layered", "jensun", "undial", "rmu", "lunar", "crisp")
LOSSES += ("mean-difference",)
EDITS = ("redirect-closed-form", "redirect-natural", "repselect", "pisces")
SALIENT = {"crisp": {"ratio": 1.2}, "pisces": {"ratio": 1.2}}  # of the small SAE few latents stand out on the targets
SHORT = ("npo", "npo-sam", "simnpo", "idk", "layered", "jensun", "undial", "rmu", "graddiff")
STRONG = {"repselect": {"kl_budget": 0.1}, "pisces": {"ratio": 1.2, "strength": 1.0}}  # no retention, one edit
LOG_PROBS, REFERENCE, LENGTHS = torch.tensor([-1.0, -6.0]), torch.tensor([-0.5, -2.0]), torch.tensor([2.0, 3.0])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --------------------------------------------------------------------------------------------- formulas


def test_npo_is_its_formula():
    """-(2 / beta) mean log sigmoid(-beta (log p - log p_ref)) = (2 / beta) mean log(1 + (p / p_ref)^beta)."""
    beta = 0.7
    ratios = [math.exp(a - b) for a, b in zip(LOG_PROBS.tolist(), REFERENCE.tolist(), strict=True)]
    expected = sum(2 / beta * math.log(1 + ratio**beta) for ratio in ratios) / 2
    assert npo_loss(LOG_PROBS, REFERENCE, beta).item() == pytest.approx(expected, rel=1e-5)
    assert npo_loss(REFERENCE, REFERENCE, beta).item() == pytest.approx(2 / beta * math.log(2), rel=1e-5)


def test_npo_of_a_small_beta_has_the_gradient_of_ascent():
    """d/dx of -(2/b) log sigmoid(-b (x - r)) is 2 sigmoid(b (x - r)), which is 1 for b -> 0: ascent on the sums."""
    x = LOG_PROBS.clone().requires_grad_(True)
    npo_loss(x, REFERENCE, 1e-4).backward()
    assert x.grad.tolist() == pytest.approx([0.5, 0.5], abs=1e-3)


def test_simnpo_is_its_formula():
    expected = 0.0
    for value, length in zip(LOG_PROBS.tolist(), LENGTHS.tolist(), strict=True):
        expected += -2 / 2.5 * math.log(sigmoid(-2.5 * value / length - 0.3)) / 2
    assert simnpo_loss(LOG_PROBS, LENGTHS, 2.5, 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_ascent_is_the_mean_over_tokens_not_over_answers():
    assert ascent(LOG_PROBS, LENGTHS).item() == pytest.approx(-7 / 5)


def test_distances_count_variances():
    acts = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    # ((1-1)^2 + (2-0)^2 + (3-1)^2 + (0-0)^2) / 2 rows / 4
    assert misdirection(acts, torch.tensor([1.0, 0.0]), 4.0).item() == pytest.approx(1.0)
    reference = torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    # (1-0-1)^2 + (2-2-0)^2 + (3-3-1)^2 + (0-1-0)^2 = 2, / 2 rows / 2
    assert shift_distance(acts, reference, torch.tensor([1.0, 0.0]), 2.0).item() == pytest.approx(0.5)


def test_salient_latents_need_the_ratio_and_a_gain():
    target, retained = torch.tensor([[5.0, 4.0, 1.0, 0.0]]), torch.tensor([[4.0, 0.5, 0.1, 0.0]])
    assert salient_latents(target, retained, 4, 3.0).tolist() == [1, 2], "0 gains most but is active everywhere"
    assert salient_latents(target, retained, 1, 3.0).tolist() == [1]
    assert salient_latents(target, target, 4, 3.0).tolist() == [], "the same entities have none"


# --------------------------------------------------------------------------------------------- what they train on


def test_answer_log_probs_are_those_of_the_evaluations(world_problem):
    problem = world_problem()
    examples = own_answers(problem.lm, problem.sets, problem.templates)[:5]
    found, lengths = answer_log_probs(problem.lm.model, examples, problem.lm.device)
    decode = partial(problem.lm.tokenizer.decode, skip_special_tokens=True)
    expected = continuation_log_probs(
        problem.lm, [decode(e.question) for e in examples], [decode(e.answer) for e in examples]
    )
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert lengths.tolist() == [len(e.answer) for e in examples]
    assert found.exp().mean() > 0.5, "the model knows them"


def test_answers_are_the_models_own_and_refusals_those_about_unknown_entities(world_problem):
    problem = world_problem()
    decode = problem.lm.tokenizer.decode
    facts = {v for e in problem.sets.forget for values in e.facts.values() for v in values}
    assert {decode(a.answer).strip() for a in own_answers(problem.lm, problem.sets, problem.templates)} <= facts
    assert {decode(a.answer) for a in refused_answers(problem.lm, problem.sets, problem.templates)} == {" unknown"}
    assert refusal([Entity("Osk", "city", answers={"river": ["Lim"]})]) == " unknown", "nothing was refused"


# --------------------------------------------------------------------------------------------- all of them


def test_registries_hold_the_same_methods():
    assert set(METHODS) == set(METHOD_SETTINGS) == {*LOSSES, *EDITS, "redirect"}


def test_defaults_of_a_method_give_way_to_what_is_given():
    assert configure("ga").retain_weight == 0.0
    assert configure("ga", retain_weight=2.0).retain_weight == 2.0
    assert configure("npo", beta=0.3).settings == NpoSettings(beta=0.3)


@pytest.mark.parametrize("word", ["betta=0.1", "beta", "beta=high", "blocks=all"])
def test_bad_params_are_refused(word):
    with pytest.raises(ConfigError) as caught:
        read_params("npo", [word])
    assert str(caught.value.got).strip("'") in word, "the name, or the value, that was refused"
    if word == "betta=0.1":
        assert "beta" in str(caught.value.expected)


@pytest.mark.parametrize(
    ("method", "own"),
    [*((m, SALIENT.get(m, {})) for m in METHODS), ("redirect", {"init": "closed-form"})],
)
def test_building_a_method_leaves_the_model_as_it_is(world_problem, method, own):
    problem = world_problem(method=method, **own)
    before = weights_hash(problem.lm.model)
    built = build_method(problem)
    assert weights_hash(problem.lm.model) == before == weights_hash(problem.reference)
    steps = {Objective: "parts", WeightEdit: "edit", Preparing: "prepare"}
    changing = [name for kind, name in steps.items() if isinstance(built, kind) and name != "parts"]
    if own.get("init") or "edit" in changing:  # the control: the step that is there for it does change the model
        getattr(built, changing[-1])()
        assert weights_hash(problem.lm.model) != before == weights_hash(problem.reference)


@pytest.mark.parametrize("method", LOSSES)
def test_a_few_steps_down_the_forgetting_term_lower_it(world_problem, whole_loss, method):
    """Its own gradient, retention left out: plain descent has to lower what the method minimises."""
    own = SALIENT.get(method, {})
    problem = world_problem(method=method, retain_weight=0.0, batch_size=16, **own)
    objective = build_method(problem)
    parameters = [p for n, p in problem.lm.model.named_parameters() if "embed" not in n]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    values = []
    for _ in range(4):
        found = whole_loss(objective, 0)
        assert set(found.terms) == {"forget"}, "a weight of zero costs nothing"
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        values.append(found.loss.item())
    assert values[-1] < values[0] - 0.02 * abs(values[0]), values


def test_crisp_without_salient_latents_says_so(world_problem):
    with pytest.raises(CollapseError, match="stands out"):
        build_method(world_problem(method="crisp", ratio=1e9))


@pytest.mark.slow
@pytest.mark.parametrize("method", [*SHORT, *STRONG])
def test_short_runs_lower_recall(
    method, world_sae, world_analysis, world_labels, world_templates, world_targets, world_documents, tmp_path: Path
):
    lm = load_lm(str(shipped_world()), device="cpu")
    own = STRONG.get(method, {"steps": 20, "lr": 2e-3, "warmup_steps": 2})
    config = configure(method, **{"batch_size": 8, "max_loss_increase": 9.0 if method in STRONG else 3.0, **own})
    targets = [e for e in world_labels if e.key in world_targets]
    before = recall(ask(lm, targets, world_templates, heldout=True))
    task = RemovalTask(
        lm,
        [world_sae],
        world_analysis,
        world_labels,
        world_templates,
        world_targets,
        config,
        documents=world_documents[:200],
    )
    found = run_removal(task, tmp_path / "run")
    after = recall(ask(found.lm, targets, world_templates, heldout=True))
    assert before > 0.8
    assert after < 0.6 * before
