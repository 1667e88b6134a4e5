"""Redirection: the loss at its target, its gradient, a short run with its negative control, resume, honest failures."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from features.entities.name_tokens import encode
from features.factworld import shipped_world
from features.labels.knowledge import ask, recall
from sae_train.errors import CollapseError, ConfigError, HookPointError, NoChangeError, NumericalError
from sae_train.lm.hooks import captured, replaced
from sae_train.lm.models import load_lm, weights_hash
from sae_train.run.processes import Processes
from sae_train.run.progress import no_advance
from unlearn.auditing.attacks.teacher import Teacher
from unlearn.config import configure
from unlearn.finetuning.finetune import TuneState, _can_save, adamw, trainable_parameters
from unlearn.finetuning.outcome import relative_change
from unlearn.losses.relearn_guard import Attacker, RelearnGuard
from unlearn.methods import METHODS
from unlearn.methods.redirect import Redirect
from unlearn.problem.data import training_prompts
from unlearn.problem.hook_choice import choose_hook_point
from unlearn.problem.paired_prompts import pair_batch
from unlearn.removals.run import RemovalTask, run_removal
from unlearn.settings.redirection import RedirectSettings

TERMS = ("latent", "block", "output", "erase")
SMALL = {"batch_size": 8, "warmup_steps": 2}


def own_as_partner(problem):
    """Return the task in which every target is its own partner: the model is at the target already."""
    return dataclasses.replace(problem, sets=dataclasses.replace(problem.sets, partner=problem.sets.forget))


def attacker(rate: float, n_lessons: int, n_steps: int = 1) -> RedirectSettings:
    """Return settings of the guard: its attacker's step size, lessons and life; as many questions as lessons."""
    return RedirectSettings(guard_rate=rate, guard_lessons=n_lessons, guard_questions=n_lessons, guard_steps=n_steps)


@pytest.fixture
def terms_of(whole_loss):
    return lambda problem: {k: float(v) for k, v in whole_loss(Redirect(problem), 0).terms.items()}


# --------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("positions", ["last-name-token", "from-name-on"])
def test_the_loss_is_zero_at_its_target_and_positive_before(world_problem, positions, terms_of):
    problem = world_problem(positions=positions)
    at_target, before = terms_of(own_as_partner(problem)), terms_of(problem)
    for name in TERMS:
        assert at_target[name] == pytest.approx(0, abs=1e-6), name
        assert before[name] > 0.01, name
    assert before["retain"] == pytest.approx(0, abs=1e-5), "nothing has moved yet"


def test_a_decoded_target_is_not_the_activation_itself(world_problem, terms_of):
    """With sae_error off the aim at the SAE's hook point is the reconstruction, which even the model itself misses."""
    problem = own_as_partner(world_problem(sae_error=False, blocks="hook"))
    found = terms_of(problem)
    assert found["block"] > 0.01
    assert found["latent"] == pytest.approx(0, abs=1e-6)


def test_every_term_is_bounded_below_by_zero(world_problem, terms_of):
    problem = world_problem()
    generator = torch.Generator().manual_seed(0)
    for scale in (0.01, 0.1, 1.0):
        with torch.no_grad():
            for parameter in problem.lm.model.parameters():
                parameter += scale * torch.randn(parameter.shape, generator=generator)
        assert all(v >= 0 for v in terms_of(problem).values())


def test_the_mean_aim_is_the_mean_of_activations_and_of_probabilities(world_problem):
    redirect = Redirect(world_problem(aim="mean"))
    batches = [pair_batch(pairs[:4], redirect.settings.positions, torch.device("cpu")) for pairs in redirect.aimed]
    aims, logits = redirect._aims(batches)
    each = [redirect._aims([batch]) for batch in batches]
    for name, found in aims.items():
        torch.testing.assert_close(found, sum(acts[name] for acts, _ in each) / len(each))
    torch.testing.assert_close(logits.softmax(-1), sum(own.softmax(-1) for _, own in each) / len(each))
    assert not torch.allclose(aims["layers.1"], each[0][0]["layers.1"])


def test_the_gradient_reaches_latents_that_are_off(world_problem):
    """TopK gives no gradient to a latent that is off; the pre-activation does."""
    problem = world_problem()
    redirect = Redirect(problem)
    sae, j = problem.sae, problem.latents.selected["unknown"][0]
    generator = torch.Generator().manual_seed(0)
    acts = sae.b_dec + 3 * torch.randn(64, sae.d_in, generator=generator)
    acts = acts[sae.encode(acts)[:, j] == 0][:4]
    assert len(acts) == 4
    acts.requires_grad_(True)
    aim = acts.detach() + 5 * sae.W_dec[j]
    redirect._latent_term(acts, aim).backward()
    assert (acts.grad.norm(dim=1) > 0).all()
    towards = -(acts.grad @ sae.W_enc[:, j])
    assert (towards > 0).all(), "one step down the gradient raises the latent"
    plain = acts.detach().requires_grad_(True)
    sae.encode(plain)[:, j].sum().backward()
    assert (plain.grad == 0).all(), "through TopK there is none"


def test_without_selected_latents_the_latent_term_is_zero(world_problem, terms_of):
    problem = world_problem()
    none = dataclasses.replace(problem.latents, selected={"known": [], "unknown": []})
    assert terms_of(dataclasses.replace(problem, latents=none))["latent"] == 0.0


def test_the_shift_is_what_all_targets_are_off_by_together(world_problem):
    """Gaps of +2 and -2 have the mean 0; gaps of +2 and +2 have the mean 2 in each of 96 widths: 96 * 4 / v."""
    redirect = Redirect(world_problem(shift_weight=1.0))
    name, width = redirect.names[0], redirect.problem.lm.d_model
    aims = {name: torch.zeros(4, width)}
    is_name = torch.tensor([True, True, False, False])
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None]
    apart, together = ({name: 2 * sign * torch.ones(4, width)} for sign in (signs, signs.abs()))
    assert float(redirect._shift(apart, aims, is_name)) == 0.0
    expected = width * 4 / redirect.retention.variance[name]
    assert float(redirect._shift(together, aims, is_name)) == pytest.approx(expected, rel=1e-5)
    halves = {name: 2 * torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None] * torch.ones(4, width)}
    assert float(redirect._shift(halves, aims, is_name)) == pytest.approx(expected, rel=1e-5), "parts do not cancel"


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        ("all", ["layers.0", "layers.1", "layers.2", "layers.3"]),
        ("from-hook", ["layers.2", "layers.3"]),
        ("hook", ["layers.2"]),
    ],
)
def test_redirected_blocks(world_problem, blocks, names):
    assert Redirect(world_problem(blocks=blocks)).names == names


def test_the_loss_of_a_step_depends_on_the_step_alone(world_problem, whole_loss):
    redirect = Redirect(world_problem())
    first, second, again = (float(whole_loss(redirect, step).loss.detach()) for step in (0, 1, 0))
    assert first != second
    assert again == first


@pytest.mark.parametrize("erase_at", ["name-tokens", "all-tokens"])
def test_packed_sequences_give_the_loss_and_gradient_of_padded_ones(world_problem, whole_loss, monkeypatch, erase_at):
    """Every term at a model that has moved, activations put back in part, something removed before."""
    problem = world_problem(erase_at=erase_at, erase_spread=0.5, shift_weight=1.0)
    sets = problem.sets
    halves = {"forget": sets.forget[:2], "partner": sets.partner[:2]}
    gone = {"earlier": sets.forget[2:], "earlier_partner": sets.partner[2:]}
    problem = dataclasses.replace(problem, sets=dataclasses.replace(sets, **halves, **gone))
    generator = torch.Generator().manual_seed(0)
    parameters = list(trainable_parameters(problem.lm.model, "full").values())
    for parameter in parameters:
        parameter.data += 0.05 * parameter.data.std() * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(True)
    found = []
    for packed in (True, False):
        for module in ("retention", "relearn_guard"):
            monkeypatch.setattr(f"unlearn.losses.{module}.can_pack", lambda model, packed=packed: packed)
        whole = whole_loss(Redirect(problem), 3)
        assert set(whole.terms) == {*TERMS, "shift", "guard", "retain"}
        found.append((whole.terms, torch.autograd.grad(whole.loss, parameters)))
    (terms, gradient), (expected, expected_gradient) = found
    for name, value in expected.items():
        assert float(value) > 1e-4, name
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-4), name
    for one, other in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_the_total_is_the_weighted_sum(world_problem, whole_loss):
    weights = {"latent": 0.5, "block": 2.0, "output": 3.0, "shift": 7.0, "erase": 0.7, "guard": 0.3, "retain": 5.0}
    objective = Redirect(world_problem(**{f"{name}_weight": weight for name, weight in weights.items()}))
    found = whole_loss(objective, 0)
    assert set(found.terms) == set(weights)
    total = sum(weight * float(found.terms[name]) for name, weight in weights.items())
    assert float(found.loss.detach()) == pytest.approx(total, rel=1e-5)


def test_unknown_methods_and_bad_settings_are_refused():
    with pytest.raises(ConfigError) as caught:
        configure("redirekt")
    assert "redirect" in str(caught.value.expected)
    assert METHODS["redirect"] is Redirect
    for bad in (
        {"steps": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"batch_size": 0},
        {"retain_weight": -1.0},
        {"block_weight": -1.0},
        {"latent_weight": -0.1},
        {"output_weight": float("nan")},
        {"warmup_steps": -1},
        {"blocks": "some"},
        {"aim": "any"},
        {"guard_every": 0},
        {"positions": "first"},
        {"train": "none"},
        {"frac_retain": 0.0},
        {"save_every": 0},
    ):
        with pytest.raises(ConfigError):
            configure(**bad)


def test_trainable_parameters_leave_the_embedding_alone(world_lm):
    full, down = trainable_parameters(world_lm.model, "full"), trainable_parameters(world_lm.model, "down_proj")
    assert not [n for n in full if "embed" in n or "lm_head" in n]
    assert len(down) == world_lm.n_blocks
    assert set(down) < set(full)


def test_the_steps_can_start_from_the_closed_form(world_problem, terms_of):
    """Nothing has been trained yet, and the targets are nearer their aims than in the model as it was."""
    problem = world_problem(init="closed-form")
    start = terms_of(problem)["block"]
    assert start == terms_of(world_problem())["block"], "building it changes nothing"
    Redirect(problem).prepare()
    assert terms_of(problem)["block"] < 0.9 * start


def test_a_run_that_starts_from_the_closed_form_records_the_step_size_of_its_steps(run):
    """It writes weights first, and then takes steps: of these the size is known."""
    _, solved = run("solved", steps=2, init="closed-form", guard_weight=0.0)
    _, plain = run("plain", steps=2, guard_weight=0.0)
    assert solved["lr"] == plain["lr"] == pytest.approx(3e-3)
    assert solved["relative_change"] > plain["relative_change"], "the closed form is in it"
    _, edited = run("edited", method="redirect-closed-form", train="down_proj")
    assert edited["lr"] is None, "no step at all"


# --------------------------------------------------------------------------------------------- relearning


def test_the_guard_asks_what_was_not_taught(world_problem):
    guard = RelearnGuard(world_problem(), attacker(1e-3, 16))
    for attack in range(5):
        found = guard._attacker_of(attack, np.random.default_rng(attack))
        assert found.taught
        assert found.asked
        assert len(found.taught) + len(found.asked) == len(guard.lessons)
        shared = {(x.target, x.attribute) for x in found.taught} & {(x.target, x.attribute) for x in found.asked}
        assert not shared
    problem, lesson = guard.problem, guard.lessons[0]
    assert lesson.answered.question == lesson.pair[0].ids
    said = problem.lm.tokenizer.decode(lesson.answered.answer).strip()
    assert said == problem.sets.forget[lesson.target].facts[lesson.attribute][0]


def test_the_guard_is_zero_where_target_and_partner_are_taught_alike_and_leaves_the_weights_alone(world_problem):
    """Every target its own partner: at its aim, however far the lessons lead. A target that is known is not."""
    same = own_as_partner(world_problem())
    still = RelearnGuard(same, attacker(1e-2, 16)).loss(0, np.random.default_rng(0))
    assert float(still.detach()) == pytest.approx(0, abs=1e-5)
    problem = world_problem()
    before = {n: p.detach().clone() for n, p in problem.lm.model.named_parameters()}
    known = RelearnGuard(problem, attacker(1e-3, 16)).loss(0, np.random.default_rng(0))
    assert float(known.detach()) > 0.5
    known.backward()
    named = dict(problem.lm.model.named_parameters())
    assert all(torch.equal(named[n], v) for n, v in before.items())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in named.values())


def test_the_guard_may_look_every_few_batches_and_weighs_as_much_more(world_problem, whole_loss):
    objective = Redirect(world_problem(guard_every=2, guard_weight=0.5))
    with_guard, without = whole_loss(objective, 2), whole_loss(objective, 3)
    assert "guard" in with_guard.terms and "guard" not in without.terms
    unguarded = whole_loss(Redirect(world_problem(guard_weight=0.0)), 2)
    torch.testing.assert_close(with_guard.loss - unguarded.loss, 2 * 0.5 * with_guard.terms["guard"])


def test_the_attacker_is_the_one_of_the_audit(world_problem):
    """Given the same lessons, the weights under attack are those that the audit's relearning comes to."""
    problem = world_problem()
    guard = RelearnGuard(problem, attacker(1e-3, 4))
    student = dataclasses.replace(problem.lm, model=copy.deepcopy(problem.lm.model))
    teacher = Teacher(student, 1e-3)
    # as the audit reads: Adam's first steps make much of the last bit of a small gradient
    imagined = Attacker(problem, 0, [], guard.lessons, [], rate=1e-3, packed=teacher.packed)
    for step in range(3):
        lessons = guard.lessons[4 * step : 4 * step + 4]
        teacher.step([(x.answered.question, x.answered.answer) for x in lessons])
        imagined.learn(lessons)
    taught = dict(student.model.named_parameters())
    weights = imagined.weights()
    assert weights
    for name, weight in weights.items():
        torch.testing.assert_close(weight, taught[name], rtol=0, atol=2e-6)


def test_the_attacker_goes_along_and_begins_anew(world_problem):
    """It lives for `guard_steps` batches, while the model changes below it; then another one parts the facts anew."""
    problem = world_problem()
    guard = RelearnGuard(problem, attacker(1e-3, 4, 3))
    met = []
    for batch in range(6):
        guard.loss(batch, np.random.default_rng(batch))
        met.append(guard.attacker)
        with torch.no_grad():
            next(iter(guard.attacker.own.values())).add_(1e-3)
    assert [a is b for a, b in itertools.pairwise(met)] == [True, True, False, True, True]
    assert met[0].taught != met[5].taught
    farthest = [max(float(d.detach().abs().max()) for d in a.away.values()) for a in (met[0], met[5])]
    assert all(2e-3 < d < 4e-3 for d in farthest), "about three steps of the rate"
    again = RelearnGuard(problem, attacker(1e-3, 4, 3))
    losses = [float(g.loss(6, np.random.default_rng(6)).detach()) for g in (guard, again)]
    assert losses[0] == losses[1], "where it begins anew, nothing is left of the one before"


def test_several_processes_save_where_their_attackers_begin_anew(world_problem):
    """Two processes, two batches a step in each: four batches a step, so an attack of eight begins every two steps."""
    problem = world_problem(guard_steps=8, accumulate=2)
    parameters = trainable_parameters(problem.lm.model, "full")
    states = [TuneState(parameters, adamw(parameters.values(), 1e-3), 1e-3, step) for step in range(1, 5)]
    runs = [(Redirect(problem), 2), (Redirect(problem), 1), (Redirect(world_problem(guard_weight=0.0)), 2)]
    can = [[_can_save(s, o, problem.config, Processes(0, n)) for s in states] for o, n in runs]
    assert can == [[False, True, False, True], [True] * 4, [True] * 4]


# --------------------------------------------------------------------------------------------- runs


@pytest.fixture
def run(world_sae, world_analysis, world_labels, world_templates, world_targets, world_documents, tmp_path):
    """Return a function that unlearns the six targets on a fresh copy of the shipped model."""

    def start(out: str = "out", *, resume: bool = False, advance=no_advance, **settings):
        task = RemovalTask(
            load_lm(str(shipped_world()), device="cpu"),
            [world_sae],
            world_analysis,
            world_labels,
            world_templates,
            world_targets,
            configure(**{**SMALL, **settings}),
            documents=world_documents[:40],
        )
        found = run_removal(task, tmp_path / f"{out}.run", name=out, resume=resume, advance=advance)
        found.save(tmp_path / out)
        shutil.rmtree(found.run_folder)
        return found.lm, found.result

    return start


def target_recall(lm, labels, templates, targets) -> float:
    return recall(ask(lm, [e for e in labels if e.key in targets], templates, heldout=True))


@pytest.mark.slow
def test_a_short_run_lowers_the_terms_and_what_is_answered(
    run, tmp_path, world_problem, world_lm, world_labels, world_templates, world_targets, terms_of
):
    lm, result = run(steps=9, lr=3e-3)
    before = world_problem(guard_weight=0.0)  # which asks for a gradient
    after = dataclasses.replace(before, lm=lm)
    old, new = terms_of(before), terms_of(after)
    assert all(new[k] < 0.6 * old[k] for k in TERMS), (old, new)
    here = (world_labels, world_templates, world_targets)
    assert target_recall(world_lm, *here) > 0.8
    assert target_recall(lm, *here) < 0.5
    assert result["changed_parameters"] > 0
    assert set(result) >= {"model", "method", "steps", "seconds", "changed_parameters"}
    saved = load_lm(str(tmp_path / "out"), device="cpu")
    assert weights_hash(saved.model) == weights_hash(lm.model) != weights_hash(world_lm.model)
    assert torch.equal(saved.model.get_input_embeddings().weight, world_lm.model.get_input_embeddings().weight)
    record = json.loads((tmp_path / "out" / "unlearning.json").read_text())
    assert record["config"]["steps"] == 9
    assert sorted(record["inputs"]["forget"]) == sorted(world_targets)
    assert not (tmp_path / "out.run").exists()


@pytest.mark.slow
def test_without_redirection_nothing_is_forgotten(run, world_labels, world_templates, world_targets, world_lm):
    """Negative control: the same steps with every weight of the redirection at zero.

    The retention loss starts at its minimum, so what moves is rounding noise that Adam normalises; recall stays.
    """
    none = dict.fromkeys(("latent_weight", "block_weight", "output_weight", "shift_weight", "guard_weight"), 0.0)
    lm, _ = run(steps=9, lr=3e-3, erase_behind=False, **none)
    here = (world_labels, world_templates, world_targets)
    assert target_recall(lm, *here) >= target_recall(world_lm, *here) - 0.1


@torch.no_grad()
def steered_back(lm, original, problem, block: str) -> float:
    """Return the share of questions answered rightly (first token) with the original activations at the names."""
    pairs, truths = [], []
    for target in problem.sets.forget:
        asked = [p for p in training_prompts(target, problem.templates) if p.attribute]
        own = encode(lm, asked)
        pairs += list(zip(own, own, strict=True))
        answers = encode(lm, asked, [target.facts[p.attribute][0] for p in asked])
        truths += [long.ids[len(short.ids)] for short, long in zip(own, answers, strict=True)]
    batch = pair_batch(pairs, "name-tokens", lm.device)
    with captured(original, [block]) as found:
        original(**batch.own.inputs)
    put_back = torch.where(batch.is_name[..., None], found[block], 0)
    with replaced(lm.model, block, lambda acts: torch.where(batch.is_name[..., None], put_back, acts)):
        logits = lm.model(**batch.own.inputs).logits
    said = logits[torch.arange(len(pairs)), batch.own.mask.sum(1) - 1].argmax(-1)
    return float((said == torch.tensor(truths)).float().mean())


@pytest.mark.slow
def test_behind_the_key_nothing_is_left(run, world_problem, world_lm):
    """The original activation no longer brings the answer back.

    Negative control: where only the name's own activations are moved, and nothing is asked of what comes behind, it
    does. The probe finds what is there.
    """
    problem = world_problem()
    only_key = {"erase_behind": False, "positions": "name-tokens", "output_weight": 0.0, "guard_weight": 0.0}
    hidden, _ = run("hidden", steps=40, lr=2e-3, **only_key)
    erased, _ = run("erased", steps=40, lr=2e-3)
    before, left, gone = (steered_back(lm, world_lm.model, problem, "layers.1") for lm in (world_lm, hidden, erased))
    assert before > 0.9
    assert left > 0.5
    assert gone < 0.2


@pytest.mark.slow
def test_lessons_tell_a_guarded_model_less(run, world_problem):
    """After lessons that training never saw, a guarded model is nearer to what lessons do to unknown entities."""
    left = {}
    for name, weight in (("open", 0.0), ("guarded", 1.0)):
        lm, _ = run(name, steps=60, lr=2e-3, guard_weight=weight, aim="matched")  # the partners of the guard below
        problem = dataclasses.replace(world_problem(), lm=lm)
        for parameter in trainable_parameters(lm.model, "full").values():
            parameter.requires_grad_(True)
        guard = RelearnGuard(problem, attacker(1e-3, 8, 20))
        losses = [float(guard.loss(batch, np.random.default_rng([7, batch])).detach()) for batch in range(40)]
        left[name] = np.mean(losses)
    assert left["guarded"] < 0.7 * left["open"], left


def test_down_proj_only_changes_these(run):
    lm, _ = run(steps=3, train="down_proj")
    before = load_lm(str(shipped_world()), device="cpu").model.state_dict()
    changed = [n for n, v in lm.model.state_dict().items() if not torch.equal(v, before[n])]
    assert changed
    assert all(n.endswith("mlp.down_proj.weight") for n in changed)


class Interrupted(Exception):
    """What stands for Ctrl-C."""


@pytest.mark.slow
def test_six_steps_are_two_and_four(run, tmp_path):
    """The checkpoint is in the middle of an attack, which begins anew after three steps: it goes on from there."""
    every_term = {"guard_weight": 0.5, "guard_steps": 3, "guard_lessons": 4, "shift_weight": 1.0, "save_every": 2}
    straight, _ = run("straight", steps=6, **every_term)
    seen = []

    def stop(n=1, /, *, earlier=0, **terms):
        seen.append(n + earlier)
        if len(seen) == 4:  # after the checkpoint at step 2
            raise Interrupted

    with pytest.raises(Interrupted):
        run("broken", steps=6, advance=stop, **every_term)
    assert not (tmp_path / "broken").exists(), "a model is whole or absent"
    steps = []
    go_on = {"resume": True, "advance": lambda n=1, /, *, earlier=0, **_: steps.append(n + earlier), **every_term}
    resumed, _ = run("broken", steps=6, **go_on)
    assert steps == [2, 1, 1, 1, 1], "it went on from the checkpoint"
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_resume_with_other_settings_is_refused(run):
    seen = []

    def stop(n=1, /, *, earlier=0, **terms):
        seen.append(n)
        if len(seen) > 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(steps=6, save_every=1, advance=stop)
    with pytest.raises(ConfigError, match="lr has changed"):
        run(steps=6, save_every=1, lr=5e-4, resume=True)


def nothing_written(folder: Path) -> bool:
    return not (folder / "out").exists()


def test_a_run_that_changes_nothing_is_an_error(run, tmp_path):
    with pytest.raises(NoChangeError) as caught:
        run(steps=2, lr=1e-12)
    assert caught.value.exit_code == 1
    assert nothing_written(tmp_path)


def test_a_run_that_destroys_the_model_is_an_error(run, tmp_path):
    with pytest.raises(CollapseError) as caught:
        run(steps=4, lr=0.3, warmup_steps=0)
    assert "->" in str(caught.value.got)
    assert nothing_written(tmp_path)


def test_a_loss_that_is_not_finite_is_an_error(run, tmp_path):
    with pytest.raises((NumericalError, CollapseError)):
        run(steps=5, lr=1e30, warmup_steps=0)
    assert nothing_written(tmp_path)


def test_a_new_run_does_not_go_on_with_the_log_of_a_failed_one(run, tmp_path):
    with pytest.raises(NoChangeError):
        run(steps=2, lr=1e-12)
    run(steps=2)
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2]


def test_relative_change(world_lm):
    import copy

    other = copy.deepcopy(world_lm.model)
    assert relative_change(other, world_lm.model, "full") == (0, 0.0)
    with torch.no_grad():
        for parameter in trainable_parameters(other, "full").values():
            parameter *= 1.5
    n_changed, share = relative_change(other, world_lm.model, "full")
    assert share == pytest.approx(0.5, abs=1e-4)
    assert n_changed > 0.99 * sum(p.numel() for p in trainable_parameters(other, "full").values())


# --------------------------------------------------------------------------------------------- SAE and latents


def with_other_weights(sae, folder: Path):
    """Return the SAE under another folder with another weights file."""
    from sae_train.saes.interop import load_sae, save_sae

    save_sae(sae, folder, hook_point=sae.hook_point, metadata={})
    path = folder / "sae_weights.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({k: v + 0.001 for k, v in load_file(path).items()}, path)
    return load_sae(folder)


def test_the_sae_must_be_the_one_that_was_mined(world_sae, world_analysis, tmp_path):
    other = with_other_weights(world_sae, tmp_path / "other")
    with pytest.raises(HookPointError, match="another SAE"):
        choose_hook_point([other], world_analysis, None)
    assert choose_hook_point([world_sae], world_analysis, None)[0] is world_sae
    for order in ([world_sae, other], [other, world_sae]):
        assert choose_hook_point(order, world_analysis, None)[0] is world_sae, "the right one is among them"


def test_hook_points_by_either_name(world_sae, world_analysis):
    for name in ("layers.2", "blocks.2.hook_resid_post"):
        assert choose_hook_point([world_sae], world_analysis, name)[1].hook_point == "layers.2"
    with pytest.raises(HookPointError) as caught:
        choose_hook_point([world_sae], world_analysis, "layers.1")
    assert "layers.2" in str(caught.value.expected)
