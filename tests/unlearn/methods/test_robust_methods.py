"""NPO+SAM, JensUn, UNDIAL, layered unlearning and PISCES: losses and edits against a few lines of their own."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from sae_train.errors import ConfigError
from sae_train.lm.adapters import attach_adapter
from unlearn.finetuning.finetune import TuneState, adamw, finetune, trainable_parameters, tune_step
from unlearn.losses.divergence import js_to_token, token_js
from unlearn.losses.perturbed import ascent_step, at_weights
from unlearn.methods import build_method
from unlearn.methods.forgetting import drawn
from unlearn.methods.layered import Layered, fold_of
from unlearn.methods.pisces import Pisces, taken_out
from unlearn.problem.examples import (
    Answered,
    answer_log_probs,
    answer_logits,
    asked_facts,
    own_answers,
    refused_answers,
)


@pytest.fixture
def random_problem(world_problem):
    """The small task on a model of random weights, its original a little off: no loss is at its minimum."""

    def build(method, **settings):
        problem = world_problem(method=method, retain_weight=0.0, batch_size=4, **settings)
        generator = torch.Generator().manual_seed(1)
        for model, size in ((problem.reference, 0.1), (problem.lm.model, 0.02)):
            for parameter in model.parameters():
                parameter.data += size * torch.randn(parameter.shape, generator=generator)
        return problem

    return build


def gradient_of(problem, loss) -> torch.Tensor:
    """The gradient by all trained parameters, in one row."""
    parameters = trainable_parameters(problem.lm.model, "full")
    found = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
    return torch.cat(
        [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(parameters.values(), found, strict=True)]
    )


def batch_of(problem):
    return drawn(own_answers(problem.lm, problem.sets, problem.templates), problem, 0)


def logits_one_by_one(model, batch) -> list[torch.Tensor]:
    """The logits of each answer's tokens, without padding."""
    whole = [(a, model(input_ids=torch.tensor([[*a.question, *a.answer]])).logits[0]) for a in batch]
    return [logits[len(a.question) - 1 : -1] for a, logits in whole]


# --------------------------------------------------------------------------------------------- parts


def test_the_answers_logits_are_those_without_padding(random_problem):
    problem = random_problem("undial")
    batch = batch_of(problem)
    assert len({len(a.question) for a in batch}) > 1
    logits, tokens = answer_logits(problem.lm.model, batch, problem.lm.device)
    torch.testing.assert_close(logits, torch.cat(logits_one_by_one(problem.lm.model, batch)), atol=1e-4, rtol=1e-4)
    assert tokens.tolist() == [t for a in batch for t in a.answer]


def test_the_divergence_of_jensen_and_shannon_is_its_definition():
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    aim = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    p, q = aim.softmax(-1), logits.softmax(-1)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2
    torch.testing.assert_close(token_js(logits, aim), expected)
    torch.testing.assert_close(token_js(aim, logits), expected), "in either direction"
    sure = torch.full((6, 9), -200.0)
    tokens = torch.arange(6)
    sure[tokens, tokens] = 0.0
    torch.testing.assert_close(js_to_token(logits, tokens), token_js(logits, sure))
    assert float(js_to_token(torch.tensor([[0.0, 300.0]]), torch.tensor([0]))) == pytest.approx(math.log(2))


def test_the_perturbation_leads_to_the_largest_loss_nearby():
    """Of a linear loss the ascent step is the maximiser; a random direction of the same length gives less."""
    w = torch.randn(5, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    slope = torch.arange(5.0)
    (away,) = ascent_step(slope @ w, {"w": w}, 0.3).values()
    assert away.norm() == pytest.approx(0.3)
    other = torch.randn(5, generator=torch.Generator().manual_seed(1))
    assert slope @ away > slope @ (0.3 * other / other.norm())


def test_a_loss_at_other_weights_leaves_the_model_as_it_is(world_problem):
    model = world_problem().lm.model
    name, parameter = next((n, p) for n, p in model.named_parameters() if "norm" in n)
    ids = torch.tensor([[1, 5, 7]])
    before = model(input_ids=ids).logits
    other = at_weights(model, {name: 2 * parameter}, lambda m: m(input_ids=ids).logits)
    assert not torch.allclose(before, other)
    assert torch.equal(before, model(input_ids=ids).logits)


# --------------------------------------------------------------------------------------------- one step of each


def test_npo_sam_is_npo_at_the_perturbed_weights(random_problem):
    problem = random_problem("npo-sam", rho=0.5, beta=0.4)
    batch, parameters = batch_of(problem), trainable_parameters(problem.lm.model, "full")

    def npo():
        now, then = (answer_log_probs(m, batch, problem.lm.device)[0] for m in (problem.lm.model, problem.reference))
        return (2 / 0.4 * torch.log(1 + torch.exp(0.4 * (now - then.detach())))).mean()

    plain = gradient_of(problem, npo())
    found = gradient_of(problem, build_method(problem).forget(0))
    step = 0.5 * plain / plain.norm()
    parts = step.split([p.numel() for p in parameters.values()])
    with torch.no_grad():
        for parameter, part in zip(parameters.values(), parts, strict=True):
            parameter += part.view_as(parameter)
    expected = gradient_of(problem, npo())
    assert (found - expected).norm() < 1e-3 * expected.norm()
    assert (plain - expected).norm() > 0.05 * expected.norm(), "the control: at the weights themselves it is another"


def test_jensun_goes_to_the_refusal_token_by_token(random_problem):
    problem = random_problem("jensun")
    method = build_method(problem)
    assert method.refusal == refused_answers(problem.lm, problem.sets, problem.templates)[0].answer
    method.examples = [Answered(e.question, [*e.answer, 5, 6]) for e in method.examples]
    batch = drawn(method.examples, problem, 0)
    # Of two tokens, so that it begins anew, and likely ones: the divergence of an unlikely one hardly has a gradient.
    chances = torch.cat(logits_one_by_one(problem.lm.model, batch)).softmax(-1).mean(0)
    method.refusal = refusal = chances.topk(2).indices.tolist()
    losses = []
    for logits in logits_one_by_one(problem.lm.model, batch):
        for place, row in enumerate(logits):
            aim, q = refusal[place % len(refusal)], row.softmax(-1)
            m = (F.one_hot(torch.tensor(aim), len(q)) + q) / 2
            losses.append(((1 / m[aim]).log() + (q * (q / m).log()).sum()) / 2)
    expected = torch.stack(losses).mean()
    found = method.forget(0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    a, b = gradient_of(problem, found), gradient_of(problem, expected)
    assert (a - b).norm() < 1e-2 * b.norm()


def test_jensun_retains_by_the_same_divergence(random_problem):
    problem = random_problem("jensun")
    problem = dataclasses.replace(problem, config=dataclasses.replace(problem.config, retain_weight=1.0))
    retention = build_method(problem).retention
    sequences = retention.known[:3]
    rows = [
        tuple(m(input_ids=torch.tensor([s])).logits[0] for m in (problem.lm.model, problem.original)) for s in sequences
    ]
    expected = torch.cat([token_js(now, then) for now, then in rows]).mean()
    assert retention.on(sequences).item() == pytest.approx(expected.item(), rel=1e-3)
    assert 0 < expected < math.log(2)


def test_undial_learns_from_the_original_with_the_answer_lowered(random_problem):
    problem = random_problem("undial", strength=3.0)
    batch = batch_of(problem)
    models = [logits_one_by_one(m, batch) for m in (problem.lm.model, problem.reference)]
    losses = []
    for answered, now, then in zip(batch, *models, strict=True):
        for token, row, before in zip(answered.answer, now, then, strict=True):
            aim = before.detach().clone()
            aim[token] -= 3.0
            losses.append(F.cross_entropy(row[None], aim.softmax(-1)[None]))
    found = gradient_of(problem, build_method(problem).forget(0))
    expected = gradient_of(problem, torch.stack(losses).mean())
    assert (found - expected).norm() < 1e-3 * expected.norm()


# --------------------------------------------------------------------------------------------- layered


def test_every_fact_is_in_one_fold_and_folds_are_alike(world_problem):
    problem = world_problem(method="layered")
    facts = asked_facts(problem.sets, problem.templates)
    examples = own_answers(problem.lm, problem.sets, problem.templates)
    assert len(facts) == len(examples)
    for (key, attribute), example in zip(facts, examples, strict=True):
        (entity,) = [e for e in problem.sets.forget if e.key == key]
        said = problem.lm.tokenizer.decode(example.answer, skip_special_tokens=True).strip()
        assert said in [*entity.facts[attribute], *(a.strip() for a in entity.answers[attribute])]
    folds = dict(zip(facts, fold_of(facts, 3, seed=0), strict=True))
    assert [folds[f] for f in facts] == fold_of(facts, 3, seed=0), "one fold, however often a fact is asked for"
    sizes = [list(folds.values()).count(f) for f in range(3)]
    assert max(sizes) - min(sizes) <= 1
    assert fold_of(facts, 3, seed=0) != fold_of(facts, 3, seed=1)


def test_a_stage_forgets_its_folds_and_keeps_those_to_come(world_problem):
    problem = world_problem(method="layered", steps=9, n_folds=3, retain_weight=1.0)
    method = Layered(problem)
    assert [method.stage(s) for s in range(9)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    seen: list[list[list[int]]] = []
    method.log_probs = lambda batch: (seen.append([a.answer for a in batch]), type(method).log_probs(method, batch))[1]
    kept: list[list[list[int]]] = []
    on = method.retention.on
    method.retention.on = lambda sequences: (kept.append(sequences), on(sequences))[1]
    for step in (0, 4, 8):
        found = {name for part in method.parts(step) for name in part().terms}
        assert found == {"forget", "retain"}
    fold = {tuple(a.question + a.answer): f for a, f in zip(method.examples, method.folds, strict=True)}
    assert [{fold[tuple(s)] for s in batch} for batch in kept] == [{1, 2}, {2}], "at the last stage nothing is kept"


def test_the_loop_tells_how_many_batches_there_are(world_problem, tmp_path):
    problem = world_problem(method="layered", steps=2, accumulate=3, batch_size=2)
    method = Layered(problem)
    planned = []
    method.plan = lambda n: planned.append(n)
    finetune(problem.lm, method, problem.config, None, folder=tmp_path, identity={}, resume=False)
    assert planned == [6]


def test_one_fold_is_npo(world_problem, whole_loss):
    layered = whole_loss(build_method(world_problem(method="layered", n_folds=1)), 3)
    npo = whole_loss(build_method(world_problem(method="npo")), 3)
    assert layered.loss.item() == npo.loss.item()


# --------------------------------------------------------------------------------------------- PISCES


def test_taking_out_reads_the_encoder_and_writes_the_decoder():
    generator = torch.Generator().manual_seed(0)
    vectors, encoder, decoder = (torch.randn(s, generator=generator) for s in ((6, 8), (6, 2), (2, 6)))
    expected = vectors.clone()
    for column in range(8):
        for latent in range(2):
            readings = vectors.T @ encoder[:, latent]
            reading, most = readings[column], readings.abs().max()
            if reading.abs() > 0.3 * most:
                expected[:, column] -= (reading + 0.5 * torch.sign(reading) * most) * decoder[latent]
    update = taken_out(vectors, encoder, decoder, threshold=0.3, strength=0.5)
    torch.testing.assert_close(vectors + update, expected)
    basis = torch.eye(6)[:, :2]
    clean = vectors + taken_out(vectors, basis, basis.T, threshold=0.0, strength=0.0)
    assert (clean[:2] == 0).all() and torch.equal(clean[2:], vectors[2:]), "orthonormal latents are gone"


def test_pisces_changes_the_matrices_up_to_the_saes_hook_point(world_problem):
    problem = world_problem(method="pisces", ratio=1.2, n_blocks=2)
    found = Pisces(problem).edit()
    before = problem.reference.state_dict()
    changed = [n for n, v in problem.lm.model.state_dict().items() if not torch.equal(v, before[n])]
    assert changed == [f"model.layers.{b}.mlp.down_proj.weight" for b in (1, 2)], "the SAE is at layers.2"
    assert found["n_latents"] >= 1 and found["n_vectors"] >= 1


def test_pisces_needs_a_place_to_which_mlps_write(world_problem):
    problem = world_problem(method="pisces")
    latents = dataclasses.replace(problem.latents, hook_point="layers.1.self_attn")
    with pytest.raises(ConfigError, match="no MLP writes"):
        Pisces(dataclasses.replace(problem, latents=latents))


# --------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("method", ["npo-sam", "jensun", "undial", "layered"])
def test_a_step_moves_an_adapter_alone(world_problem, method):
    problem = world_problem(method=method, train="lora", batch_size=4)
    attach_adapter(problem.lm.model, rank=2, alpha=4, seed=0)
    parameters = trainable_parameters(problem.lm.model, "lora")
    state = TuneState(parameters, adamw(parameters.values(), 1e-3), lr=1e-3)
    before = {n: p.detach().clone() for n, p in problem.lm.model.named_parameters()}
    tune_step(state, build_method(problem), problem.config, problem.lm.device)
    moved = {n for n, p in problem.lm.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("lora_" in n for n in moved)
