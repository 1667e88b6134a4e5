"""Attacks bring knowledge back from a model that was only silenced, and nothing from one that never knew.

Both models: `fixtures_attacks.py`. The attacks by lessons, on their own: `test_lessons.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from features.entities.entities import Entity
from features.entities.prompts import questions
from sae_train.intervals import Interval
from sae_train.lm.candidates import option_scores
from sae_train.lm.generate import continuation_log_probs, encode_prompts, sampled_answers
from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.text.tokens import encode_plain
from unlearn.auditing.attack_results import AttackResult, AttackSetting
from unlearn.auditing.attacks import ATTACKS
from unlearn.auditing.attacks.common import attacked, first_wordings, recalls, result, with_matrices
from unlearn.auditing.attacks.finetune import attack_finetune
from unlearn.auditing.attacks.path import PathConfig
from unlearn.auditing.attacks.prompts import FORMS, attack_prompts
from unlearn.auditing.attacks.prune import attack_prune, pruned
from unlearn.auditing.attacks.quantize import attack_quantize, rounded
from unlearn.auditing.attacks.relearn import attack_relearn, can_relearn, part, relearn
from unlearn.auditing.attacks.steer_back import attack_steer_back
from unlearn.auditing.evaluations.logit_lens import evaluate_logit_lens
from unlearn.auditing.evaluations.ranking import evaluate_ranking
from unlearn.auditing.evaluations.recall import evaluate_recall
from unlearn.finetuning.finetune import trainable_parameters


def recall_of(context, lm, entities):
    """Return the recall of the questions that attacks ask."""
    few = first_wordings(context.templates, context.config.max_wordings)
    return recalls(lm, [entities], few, context.config.seed)[0]


def gap(found: AttackResult) -> float:
    """How far the targets answer above the control's interval."""
    return found.recall_after.value - found.compared.high


# --------------------------------------------------------------------------------------------- who is attacked


def test_the_silenced_model_says_nothing_and_holds_everything(hushed):
    """Recall 0, and yet: the truth is ranked first and can be read off the inside."""
    said = evaluate_recall(replace(hushed, config=replace(hushed.config, n_samples=0))).forget.recall
    assert said.before.value > 0.9
    assert said.after.value < 0.1
    ranked = evaluate_ranking(hushed)
    assert ranked.forget.ranking.after.value > ranked.control.ranking.after.value + 0.3
    inside = evaluate_logit_lens(hushed)
    assert max(p.after.value - p.control.high for p in inside.logit_lens.values()) > 0.1
    assert max(p.after.value - p.control.value for p in inside.value_probe.values()) > 0.25


def test_of_names_never_known_nothing_is_read_off(innocent):
    lens = evaluate_logit_lens(innocent)
    for place in (*lens.logit_lens.values(), *lens.value_probe.values()):
        assert place.after.value <= place.control.high + 0.1


# --------------------------------------------------------------------------------------------- every attack on both


@pytest.mark.slow
def test_relearning_brings_back_what_was_silenced_only(hushed, innocent):
    before = weights_hash(hushed.after.model)
    found = attack_relearn(hushed)
    assert weights_hash(hushed.after.model) == before, "a copy was taught"
    lessons = found.relearning
    assert (lessons.split, lessons.n_taught, lessons.n_asked) == ("facts", 6, 6)
    assert [p.step for p in lessons.curve] == [0, 20]
    assert found.recall_after.value > found.compared.value + 0.3
    assert attack_relearn(innocent).recall_after.value < 0.3


@pytest.mark.slow
def test_steering_back_finds_a_hidden_key(world_lm, attacked_world, hushed, innocent, silencing_lessons, silence):
    """Only the first block was tuned: with its old output at the names, what lies behind it answers again."""
    hidden = silence(world_lm, silencing_lessons, hushed.forget, attacked_world.templates, block=0)
    found = attack_steer_back(replace(hushed, after=hidden, blocks=["layers.0", "layers.1"], answers={}, acts={}))
    assert found.without < 0.1
    assert found.worst.name.startswith("original activation at")
    assert found.recall_after.value > 0.7
    assert attack_steer_back(innocent).recall_after.value < 0.3, "of names never known nothing comes back"


@pytest.mark.parametrize("attack", [attack_quantize, attack_prune, attack_finetune])
def test_attacks_on_weights(hushed, innocent, world_lm, attack):
    """The untouched model answers through all of them (positive control), of strangers nothing."""
    untouched = attack(replace(hushed, after=world_lm, answers={}))
    assert untouched.recall_after.value > 0.5
    assert gap(untouched) > 0
    assert untouched.worst.before > 0.9
    assert attack(innocent).recall_after.value < 0.3


def rounding_box(weight):
    """Around a weight that lies on int4's grid: whatever is rounded to it with the same scale."""
    rows = weight.reshape(-1, 32)
    top = rows.abs().amax(dim=1, keepdim=True)
    room = torch.where(rows.abs() < 0.99 * top, 0.45 * top / 7, torch.zeros_like(rows))
    return (rows - room).reshape(weight.shape), (rows + room).reshape(weight.shape)


def pruning_box(weight):
    """Around a pruned weight: its zeros may be anything below the smallest of the others."""
    room = torch.where(weight == 0, 0.95 * weight[weight != 0].abs().min(), torch.zeros_like(weight))
    return weight - room, weight + room


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "name", "edit", "box"),
    [
        (attack_quantize, "int4", partial(rounded, bits=4, group=32), rounding_box),
        (attack_prune, "20% of the weights", partial(pruned, frac=0.2), pruning_box),
    ],
)
def test_what_hangs_on_small_differences_comes_back(
    world_lm, attacked_world, hushed, silencing_lessons, silence, attack, name, edit, box
):
    """Silenced by changes that the attack undoes to the last bit, and by nothing else."""
    base = with_matrices(world_lm, edit)
    parameters = trainable_parameters(base.model, "full")
    boxes = {n: box(p.detach()) for n, p in parameters.items() if p.ndim == 2}
    hidden = silence(base, silencing_lessons, hushed.forget, attacked_world.templates, boxes=boxes)
    context = replace(hushed, after=hidden, answers={}, acts={})
    assert recall_of(context, hidden, hushed.forget).value < 0.1
    setting = next(s for s in attack(context).settings if s.name == name)
    assert setting.target.value == recall_of(context, base, hushed.forget).value > 0.5


@pytest.mark.slow
def test_a_lid_comes_off_with_any_text(world_lm, hushed, silence):
    """Taught nothing but "unknown", a model says so of everybody; lessons of any kind take the lid off the targets."""
    text = [p for e in hushed.forget for h in (False, True) for p in questions(e, hushed.templates, heldout=h)]
    back = encode_plain(world_lm.tokenizer, [" unknown"])[0][0]
    lid = silence(
        world_lm, [(f, back) for f in encode_prompts(world_lm, [p.text for p in text])], hushed.forget, hushed.templates
    )
    context = replace(hushed, after=lid, answers={}, acts={}, config=replace(hushed.config, attack_steps=(30,)))
    assert recall_of(context, lid, hushed.forget).value < 0.1
    found = attack_finetune(context)
    assert found.recall_after.value > 0.3 > found.compared.value + 0.2


@pytest.mark.slow
def test_questions_in_other_forms(hushed, innocent, world_lm):
    found = attack_prompts(replace(hushed, after=world_lm, answers={}))
    asked = {s.name for s in found.settings}
    assert asked >= {*FORMS, "multiple choice", "reverse"} - {"alias"}
    assert "alias" in found.not_asked and not asked & set(found.not_asked)
    by_form = {s.name: s.target.value for s in found.settings}
    assert by_form["role play"] > 0.5, "the form works on who knows"
    assert by_form["multiple choice"] > 0.6
    silenced = attack_prompts(hushed)
    assert gap(silenced) > 0, "silence about one form of question is not silence about all"
    assert gap(attack_prompts(innocent)) < 0.3


def test_every_attack_says_what_it_is_compared_with():
    assert set(ATTACKS) == {*"prompts sampling steer-back quantize prune finetune relearn same-form".split()}
    points = [
        AttackSetting(n, Interval(v, 0.0, 1.0), Interval(0.1, 0.0, h), 1.0)
        for n, v, h in (("a", 0.5, 0.6), ("b", 0.4, 0.2))
    ]
    found = result(points)
    assert found.worst.name == "b", "most above the control, not the largest"
    assert (found.recall_after, found.compared) == (points[1].target, points[1].control)
    assert found.settings == tuple(points) and found.compared_with == "never-known entities"


# ------------------------------------------------------------------------------------ relearning, as a function


def test_facts_are_parted_and_targets_where_they_have_one():
    many = [Entity("A", "t", {"x": ["1"], "y": ["2"]}), Entity("B", "t", {"x": ["3"], "y": ["4"]})]
    lessons, split = part(many, 0)
    assert split == "facts"
    for entity, taught, asked in zip(many, lessons.taught, lessons.asked, strict=True):
        assert {**taught.facts, **asked.facts} == entity.facts
        assert not set(taught.facts) & set(asked.facts)
    single = [Entity(n, "t", {"x": ["1"]}) for n in "ABC"]
    lessons, split = part(single, 0)
    assert (split, len(lessons.taught), len(lessons.asked)) == ("targets", 1, 2)
    assert can_relearn(single)
    assert not can_relearn(single[:1])


def test_relearning_more_steps_teaches_what_was_taught(world_lm, hushed, world_templates):
    targets, control = attacked(hushed)
    curve = relearn(world_lm, targets, control, world_templates, PathConfig(steps=(1, 2), lrs=(1e-4,)))
    assert [(p.lr, p.step) for p in curve.points] == [(0.0, 0), (1e-4, 1), (1e-4, 2)]
    assert curve.points[0].target.value > 0.9, "the untouched model needs no lesson"
    assert curve.best.target.value >= curve.points[0].target.value - 1e-9


# --------------------------------------------------------------------------------------------- pieces


def test_rounding_to_bits():
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    eight, four = rounded(weight, bits=8, group=None), rounded(weight, bits=4, group=32)
    assert len(eight[0].unique()) <= 255
    assert all(len(g.unique()) <= 15 for g in four.reshape(-1, 32))
    # A step is max |w| / 127 of a row, the error at most half of it; 4 bits: / 7 of a group.
    assert bool(((eight - weight).abs() <= weight.abs().amax(1, keepdim=True) / 254 + 1e-6).all())
    groups = weight.reshape(-1, 32)
    assert bool(((four.reshape(-1, 32) - groups).abs() <= groups.abs().amax(1, keepdim=True) / 14 + 1e-6).all())
    assert float((eight - weight).norm()) < float((four - weight).norm())


def test_pruning_takes_the_smallest():
    weight = torch.arange(1.0, 11.0).reshape(2, 5)
    assert (pruned(weight, frac=0.3) == 0).sum() == 3
    assert bool((pruned(weight, frac=0.3)[0, :3] == 0).all())
    assert torch.equal(pruned(weight, frac=0.0), weight)


def test_options_are_scored_as_one_by_one(world_lm, hushed):
    """The shared prompt changes nothing: the same as scoring every pair on its own."""
    prompts = [p.text for p in questions(hushed.forget[0], hushed.templates, heldout=True)]
    options = [["Kenya", "a baker and a painter", "unknown"], ["Kenya"], ["Tana Volga", "sailor"], ["x", "y z"]]
    found = option_scores(world_lm, prompts, options)
    for prompt, own, scores in zip(prompts, options, found, strict=True):
        alone = continuation_log_probs(world_lm, [prompt] * len(own), [f" {o}" for o in own])
        assert scores.log_probs == pytest.approx(alone, abs=1e-3)
        ids = encode_plain(world_lm.tokenizer, [f" {own[0]}"])[0][0]
        front = encode_prompts(world_lm, [prompt])[0]
        logits = world_lm.model(input_ids=torch.tensor([front + ids])).logits[0, len(front) - 1 : -1]
        assert scores.first_greedy == (logits.argmax(-1) == torch.tensor(ids)).tolist()


def test_drawn_answers_follow_the_seed_and_leave_torch_alone(world_lm, hushed):
    prompts = [p.text for p in questions(hushed.forget[0], hushed.templates, heldout=True)][:2]
    state = torch.get_rng_state()
    draws = [sampled_answers(world_lm, prompts, n_samples=3, max_new_tokens=3, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert draws[0] == draws[1]
    assert [len(d) for d in draws[0]] == [3, 3]


def test_recall_of_a_few_questions(world_lm, hushed):
    assert recall_of(hushed, world_lm, hushed.forget).value > 0.9


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "lfm2", "llama"])
def test_experts_are_rounded_and_pruned_like_any_matrix(name, tiny_model, toy_tokenizer):
    """They are one three-dimensional parameter: each expert by its own rows, and its own fifth of zeros."""
    model = tiny_model(name)
    lm = LanguageModel(model, toy_tokenizer, name, torch.device("cpu"))
    wide = {
        n: p for n, p in model.named_parameters() if p.ndim > 1 and min(p.shape[-2:]) > 1 and "embed_tokens" not in n
    }
    if lm.architecture.is_tied:
        wide.pop("lm_head.weight", None)
    rough, thin = (
        dict(with_matrices(lm, edit).model.named_parameters())
        for edit in (partial(rounded, bits=4, group=None), partial(pruned, frac=0.2))
    )
    assert (name in ("mixtral", "qwen2-moe")) == any(p.ndim == 3 for p in wide.values())
    for key, weight in wide.items():
        for expert in range(len(weight)) if weight.ndim == 3 else [slice(None)]:
            own = weight[expert]
            assert torch.equal(rough[key][expert], rounded(own, bits=4, group=None)), key
            assert not torch.equal(rough[key][expert], own), key
            assert float((thin[key][expert] == 0).float().mean()) == pytest.approx(0.2, abs=0.01), key
