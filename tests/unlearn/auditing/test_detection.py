"""Who can tell erased names: an edit gives the right ones away; training on text, and shuffled names, nobody."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from features.entities.name_tokens import Encoded
from sae_train.intervals import Interval
from sae_train.lm.hooks import captured_keys
from sae_train.lm.models import load_lm
from unlearn.auditing.attacks.teacher import Teacher
from unlearn.auditing.audit_figures import MatrixChange, Telling, WeightChange
from unlearn.auditing.audit_json import load_report, save_report
from unlearn.auditing.evaluations.detection import evaluate_detection, told_apart
from unlearn.auditing.evaluations.weight_change import moved_keys, weight_change
from unlearn.auditing.roles import make_context
from unlearn.methods.redirect_closed_form import RedirectClosedForm
from unlearn.pages.audit_page import write_audit_page
from unlearn.problem.data import text_windows


def changed(lm, edit):
    """Return a copy of a model with the MLP output matrix of block 1 changed."""
    other = replace(lm, model=copy.deepcopy(lm.model))
    weight = other.model.get_submodule(other.architecture.blocks[1].mlp.output.path).weight
    with torch.no_grad():
        weight += edit(weight)
    return other


@pytest.fixture(scope="module", params=["tiny_llama_dir", "tiny_gpt2_dir"])
def tiny(request):
    """Matrices that are kept as (d_out, d_in), and as (d_in, d_out)."""
    return load_lm(str(request.getfixturevalue(request.param)), device="cpu")


# ------------------------------------------------------------------------------------------------------ the pieces


def test_the_spectrum_of_an_edit(tiny):
    assert weight_change(tiny, tiny).matrices == ()
    generator = torch.Generator().manual_seed(0)
    one = changed(tiny, lambda w: torch.outer(*(torch.randn(n, generator=generator) for n in w.shape)))
    found = weight_change(tiny, one)
    assert (found.n_changed, len(found.matrices)) == (1, 1) and found.n_matrices >= 8
    (matrix,) = found.matrices
    assert matrix.name.startswith(tiny.architecture.blocks[1].mlp.output.path)
    assert matrix.effective_rank == pytest.approx(1, abs=0.01) and matrix.frac_top == pytest.approx(1, abs=0.01)
    # The same singular values everywhere: of such a change no direction is larger than another.
    even = weight_change(tiny, changed(tiny, lambda w: _orthogonal(torch.randn(w.shape, generator=generator))))
    assert even.matrices[0].effective_rank == pytest.approx(matrix.full_rank, rel=0.01)
    assert even.matrices[0].frac_top == pytest.approx(1 / matrix.full_rank, rel=0.02)


def _orthogonal(matrix):
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def test_what_the_change_moves_is_what_the_matrix_reads_at_the_name(tiny):
    generator = torch.Generator().manual_seed(1)
    other = changed(tiny, lambda w: torch.randn(w.shape, generator=generator))
    read = [Encoded([5, 6, 7, 8, 9], name_at=3, name_from=2), Encoded([9, 8, 7], name_at=1, name_from=1)]
    found = moved_keys(tiny, other, read)
    path, is_transposed = (getattr(tiny.architecture.blocks[1].mlp.output, n) for n in ("path", "is_transposed"))
    delta = other.model.get_submodule(path).weight - tiny.model.get_submodule(path).weight
    for own, value in zip(read, found.tolist(), strict=True):
        with torch.no_grad(), captured_keys(tiny.model, [1]) as keys:
            tiny.model(torch.tensor([own.ids]))
        rows = keys[1].reshape(len(own.ids), -1)[own.name_from : own.name_at + 1]
        moved = rows @ (delta if is_transposed else delta.T)
        assert value == pytest.approx(float((moved.norm(dim=1) / rows.norm(dim=1)).mean()), rel=1e-4)
    assert moved_keys(tiny, tiny, read) is None


def test_scores_are_compared_within_types_and_by_the_right_names():
    generator = np.random.default_rng(0)
    scores = {f"{kind}:{i}": level + generator.normal() for kind, level in (("a", 0), ("b", 100)) for i in range(200)}
    first = [f"a:{i}" for i in range(100)] + [f"b:{i}" for i in range(20)]
    second = [key for key in scores if key not in first]
    assert told_apart(scores, first, second, 0).value == pytest.approx(0.5, abs=0.08), (
        "the level of a type tells nothing"
    )
    raised = {key: value + 5 * (key in first) for key, value in scores.items()}
    found = told_apart(raised, first, second, 0)
    assert found.value > 0.99 and found.low > 0.98
    order = generator.permutation(list(scores)).tolist()
    shuffled = told_apart(raised, order[: len(first)], order[len(first) :], 0)
    assert shuffled.low < 0.5 < shuffled.high, "of shuffled names nothing is left"
    assert np.isnan(told_apart({**scores, "a:3": float("nan")}, first, second, 0).value)
    assert np.isnan(told_apart(scores, [], second, 0).value)


def test_what_was_found_is_shown_and_read_back(one_name, tmp_path):
    told = Telling(True, Interval(0.97, 0.91, 1.0), Interval(0.88, 0.7, 0.95), 0.41)
    change = WeightChange(28, 3, (MatrixChange("model.layers.1.mlp.down_proj.weight", 0.013, 96, 4.2, 0.57),))
    report = replace(one_name(), detection={"drift": told}, weight_change=change)
    read = load_report(save_report(report, tmp_path / "audit.json"))
    assert read.detection == {"drift": told} and read.weight_change == change
    page = write_audit_page(report, tmp_path / "audit.html").read_text(encoding="utf-8")
    for shown in ("Can an outsider name the erased ones?", "0.970", "0.880", "0.410", "57", "3 of 28 matrices changed"):
        assert shown in page, shown
    rows = report.table().set_index(["group", "figure"])
    assert rows.loc["detection", "AUROC of drift against kept"]["after_low"] == 0.91
    unpriced = write_audit_page(replace(report, utility=None), tmp_path / "b.html").read_text(encoding="utf-8")
    assert "Can an outsider name" not in unpriced, "a destroyed model would look discreet"


# ------------------------------------------------------------------------------------------------ models that changed


@pytest.fixture(scope="module")
def solved(world_lm, world_sae, world_analysis, world_templates, world_sets, world_text):
    """The shipped model after a closed-form removal of the six targets."""
    from unlearn.config import configure
    from unlearn.problem.problem import Problem

    lm = replace(world_lm, model=copy.deepcopy(world_lm.model))
    config = configure(method="redirect-closed-form", last_block=1, n_blocks=2, ridge=1.0)
    base, latents = copy.deepcopy(world_lm.model), world_analysis.hook_points[0]
    RedirectClosedForm(
        Problem(lm, base, base, world_sets, world_templates, world_sae, latents, world_text, config)
    ).edit()
    return lm


@pytest.mark.slow
def test_whoever_has_both_models_names_the_targets_of_an_edit(world_lm, solved, attacked_world, hushed):
    context = make_context(world_lm, solved, attacked_world, replace(hushed.config, max_retain=None))
    found = evaluate_detection(context)
    assert len(context.group("kept")) > 10
    for score in ("drift", "weight change"):
        told = found.detection[score]
        assert told.against_known.value > 0.95 and told.against_unknown.value > 0.9, score
        assert told.needs_before
    for score in ("outlier", "answer entropy"):
        told = found.detection[score]
        assert told.known_against_unknown > 0.7, "the model after alone tells whom it knows"
        assert not told.needs_before
    assert found.weight_change.n_changed == 2
    assert all(m.effective_rank < 0.5 * m.full_rank for m in found.weight_change.matrices)
    # Negative control: as many kept names in the place of the targets.
    others = context.group("kept")
    strangers = replace(context, forget=others[::3], retain=[e for e in others if e not in others[::3]], neighbours=[])
    for score, told in evaluate_detection(replace(strangers, answers={}, acts={})).detection.items():
        assert told.against_known.low < 0.5 < told.against_known.high, score


@pytest.mark.slow
def test_training_on_general_text_gives_nobody_away(world_lm, attacked_world, hushed, world_documents):
    """The world's text as it is, which names everybody alike."""
    student = replace(world_lm, model=copy.deepcopy(world_lm.model))
    teacher, text = (
        Teacher(student, 1e-3),
        text_windows(world_lm.tokenizer, world_documents, ctx_len=64, max_tokens=20_000),
    )
    for step in range(20):
        picked = np.random.default_rng(step).choice(len(text), 8, replace=False)
        teacher.step([(text[i][:1], text[i][1:]) for i in picked])
    context = make_context(world_lm, student, attacked_world, replace(hushed.config, max_retain=None))
    found = evaluate_detection(context)
    for score, told in found.detection.items():
        assert told.against_known.low < 0.5 < told.against_known.high, score
    assert found.weight_change.n_changed == found.weight_change.n_matrices
    assert all(m.frac_top < 0.5 for m in found.weight_change.matrices)
