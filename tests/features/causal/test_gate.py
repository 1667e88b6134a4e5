"""Causal checks on the shipped world with SAEs whose answer is known by construction: gate, steering, evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.analysis.causal_results import Gate, HookPointGate
from features.analysis.evidence import Snippet, collect_evidence, store_windows, top_contexts
from features.analysis.store import HookPointAnalysis, LatentAnalysis, load_analysis, save_analysis
from features.analysis.store_causal import load_steering, save_steering
from features.causal.checks import gate_line
from features.causal.gate import random_masks, run_gate
from features.causal.patched_questions import aligned, draw_questions, name_questions
from features.causal.steering import pushes_of, run_steering
from features.config import GateConfig, SteeringConfig
from features.entities.name_tokens import name_spans
from features.stats.separation import Separation
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError
from sae_train.intervals import Interval
from sae_train.lm.answering import Decoding
from sae_train.lm.generate import encode_prompts, greedy_answers
from sae_train.lm.hooks import replaced
from sae_train.lm.models import load_lm
from sae_train.lm.patching import Patch, patched_answers
from sae_train.lm.token_acts import acts_at
from sae_train.saes.base import Sae
from sae_train.saes.relu import ReluSae
from sae_train.storage import h5

D = 96  # width of the shipped world's model
AT = "layers.1"  # after this block the names still hold all of it; one block later the answer has moved on
SMALL = GateConfig(n_entities=10, n_questions=2)


def mined(d_sae: int, selected: dict[str, list[int]], *, at: str = AT, W_dec=None, mean_active=None):
    """An analysis of one SAE, with the numbers that the checks read."""
    zeros = np.zeros(d_sae)
    scores = Separation(np.full((2, 2, d_sae), 0.5), *([zeros] * 7))
    return HookPointAnalysis(
        hook_point=at,
        sae="made",
        sae_hash="0",
        mining=scores,
        heldout=scores,
        q_value=zeros + 1,
        general_rate=None,
        mean_active=np.ones((2, d_sae)) if mean_active is None else mean_active,
        pre_act_mean=np.zeros((2, d_sae)),
        pre_act_std=np.ones((2, d_sae)),
        W_dec=np.zeros((d_sae, D)) if W_dec is None else W_dec,
        selected=selected,
        probe=Interval(0.9, 0.8, 1.0),
        score=Interval(0.9, 0.8, 1.0),
        fvu_at_names=0.0,
    )


def loaded(sae: ReluSae, at: str = AT) -> Sae:
    sae.hook_point, sae.folder = at, Path("made")
    return sae


@torch.no_grad()
def whole_sae() -> ReluSae:
    """z = (relu(x), relu(-x)): the latents hold everything, the SAE error is zero."""
    sae = ReluSae(D, 2 * D)
    eye = torch.eye(D)
    sae.W_enc.copy_(torch.cat([eye, -eye]).T)
    sae.W_dec.copy_(torch.cat([eye, -eye]))
    return sae


@torch.no_grad()
def random_sae(n: int = 8) -> ReluSae:
    """A few random directions that read noise: the latents hold next to nothing, the error all."""
    generator = torch.Generator().manual_seed(0)
    sae = ReluSae(D, n)
    sae.W_enc.copy_(0.01 * torch.randn(D, n, generator=generator))
    rows = torch.randn(n, D, generator=generator)
    sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
    return sae


@pytest.fixture(scope="module")
def labels(world_entities):
    """Labels by construction: who has facts is known, who was never seen is unknown."""
    return [replace(e, label="known" if e.seen == "facts" else "unknown") for e in world_entities]


@pytest.fixture(scope="module")
def analysis_of(labels):
    def build(*hook_points: HookPointAnalysis) -> LatentAnalysis:
        return LatentAnalysis(
            hook_points=list(hook_points),
            entity_keys=[e.key for e in labels],
            entity_labels=[str(e.label) for e in labels],
            entity_types=[e.type for e in labels],
            held_out=np.arange(len(labels)) % 2 == 0,
            types=["person", "city"],
            attrs={"model": "fact-world", "seed": 0},
        )

    return build


@pytest.fixture(scope="module")
def gate(world_lm, labels, world_templates, analysis_of) -> Gate:
    """The gate of three SAEs: whole and random at `layers.1`, whole one block later; all blocks patched too."""
    saes = [loaded(whole_sae()), loaded(random_sae()), loaded(whole_sae(), "layers.3")]
    widths = [2 * D, 8, 2 * D]
    found = [mined(w, {"known": [], "unknown": [0, 1]}, at=s.hook_point) for s, w in zip(saes, widths, strict=True)]
    return run_gate(world_lm, saes, labels, world_templates, analysis_of(*found), replace(SMALL, n_blocks=4))


# ------------------------------------------------------------------------------------------------------------ patching


def test_a_patched_prompt_is_answered_as_if_patched_at_every_step(tiny_llama_dir):
    """The cache holds the edited keys and values: same words as without a cache, the edit repeated."""
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    texts = ["The city of Velmora lies on", "Mira Tolvan was born", "The city of Tashu lies on"]
    rows = [torch.randn(2, 32, generator=torch.Generator().manual_seed(i)) * 5 for i in range(3)]
    patch = Patch("layers.0", [[2, 3]] * 3, rows)
    ids = encode_prompts(lm, texts)
    found = [w.greedy for w in patched_answers(lm, ids, patch, Decoding(5))]
    for text, row, answer in zip(texts, rows, found, strict=True):
        tokens = torch.tensor(encode_prompts(lm, [text]))
        n = tokens.shape[1]

        def edit(acts, row=row):
            acts = acts.clone()
            acts[:, [2, 3]] = row
            return acts

        with replaced(lm.model, "layers.0", edit), torch.no_grad():
            for _ in range(5):
                logits = lm.model(input_ids=tokens, use_cache=False).logits[:, -1]
                tokens = torch.cat([tokens, logits.argmax(1, keepdim=True)], 1)
        assert lm.tokenizer.decode(tokens[0, n:], skip_special_tokens=True).startswith(answer)
    assert found != greedy_answers(lm, texts, max_new_tokens=5), "the patch changes something"
    own = acts_at(lm, ids, patch.positions, ["layers.0"])["layers.0"]
    same = patched_answers(lm, ids, replace(patch, rows=own), Decoding(5))
    assert [w.greedy for w in same] == greedy_answers(lm, texts, max_new_tokens=5), "own rows change nothing"


def test_name_places_are_the_names_tokens(world_lm, labels, world_templates):
    prompts = [p for e in labels[:3] for p in draw_questions(e, world_templates, 2, 0)]
    ids = encode_prompts(world_lm, [p.text for p in prompts])
    for prompt, own, every in zip(prompts, ids, name_spans(world_lm, prompts, "all"), strict=True):
        name = prompt.text[prompt.name_start : prompt.name_end]
        assert world_lm.tokenizer.decode([own[i] for i in every]).strip() == name
    assert name_spans(world_lm, prompts, "last") == [p[-1:] for p in name_spans(world_lm, prompts, "all")]


def test_rows_are_aligned_from_the_end():
    rows = torch.arange(3.0).view(3, 1)
    assert aligned(rows, 2).flatten().tolist() == [1, 2]
    assert aligned(rows, 5).flatten().tolist() == [0, 0, 0, 1, 2]


def test_questions_are_held_out_wordings_attributes_in_turn(world_lm, labels, world_templates):
    entity = labels[0]
    drawn = draw_questions(entity, world_templates, 2, 0)
    assert len({p.attribute for p in drawn}) == 2
    assert all(p.template in world_templates.heldout[entity.type][str(p.attribute)] for p in drawn)
    asked = name_questions(world_lm, labels[:4], world_templates, most=3, tokens="last", seed=0)
    assert np.bincount(asked.entity).tolist() == [3] * 4


# ------------------------------------------------------------------------------------------------------------ the gate


def test_latents_that_hold_everything_have_the_share_one(gate):
    found = gate.hook_points[0]
    assert found.clean.mean() > 0.9
    assert found.passing.value > 0.9, "another name's activation takes the answers"
    np.testing.assert_array_equal(
        found.recall["reconstruction"], found.clean, "an exact reconstruction changes nothing"
    )
    np.testing.assert_array_equal(found.recall["error"], found.clean, "there is no error to swap")
    assert found.frac_taken("latents").value > 0.9
    assert found.frac_taken("latents").low > 0.7
    assert found.passes and not found.reasons


def test_random_latents_have_the_share_zero(gate):
    found = gate.hook_points[1]
    assert found.frac_taken("latents").value < 0.1
    assert found.frac_taken("error").value > 0.9, "swapping the error swaps everything"
    assert found.frac_taken("reconstruction").value > 0.1, "nearly zero at the name: what moved on before is still read"
    assert not found.passes and "the SAE error holds the rest" in found.reasons[0]


def test_where_nothing_is_read_any_more_nothing_passes(gate):
    """No attention follows the last block: what lies at the name there cannot reach the answer."""
    found = gate.hook_points[2]
    assert found.passing.value == 0
    assert np.isnan(found.frac_taken("latents").value)
    assert not found.passes and "does not pass here" in found.reasons[0]
    by_block = [h.interval("residual").value for h in gate.blocks]
    assert [h.hook_point for h in gate.blocks] == [f"layers.{i}" for i in range(4)]
    assert by_block[0] < 0.1 and by_block[3] > 0.9


def test_the_hook_point_that_passes_is_recommended(gate):
    assert gate.recommended == AT and gate.passes
    failing = replace(gate, hook_points=gate.hook_points[1:])
    assert failing.recommended is None and not failing.passes
    summary = gate.summary()
    assert summary["recommended"] == AT and summary["hook_points"][1]["passes"] is False


def test_a_strict_threshold_fails_what_passed(gate):
    first = gate.hook_points[0]
    strict = replace(first, config=replace(SMALL, min_recall=1.0), clean=first.clean * 0.9)
    assert "nothing to measure" in strict.reasons[0]
    with pytest.raises(ConfigError):
        GateConfig(tokens="first")
    with pytest.raises(ConfigError):
        GateConfig(n_entities=1)


def test_random_control_has_the_same_size_and_none_of_the_chosen():
    firing = np.array([0.9, 0.5, 0.4, 0.0, 0.3, 0.2, 0.1, 0.01])
    masks = random_masks(firing, [0, 4], 50, seed=0)
    assert masks.sum(1).tolist() == [2.0] * 50
    assert masks[:, [0, 4]].sum() == 0, "none of the selected"
    assert masks[:, [3, 7]].sum() == 0, "none that hardly fires at names"
    assert len({tuple(m.tolist()) for m in masks}) > 3, "drawn anew"
    few = random_masks(np.array([0.9, 0.0, 0.0]), [0], 3, seed=0)
    assert few.sum(1).tolist() == [1.0] * 3


# -------------------------------------------------------------------------------------------------------- steering


@pytest.fixture(scope="module")
def curves(world_lm, labels, world_templates, analysis_of):
    """One made latent writes from where known names lie to where unknown ones do; the others write noise."""
    sides = {
        label: name_questions(
            world_lm,
            [e for e in labels if e.label == label][:16],
            world_templates,
            most=2,
            tokens="last",
            seed=0,
        )
        for label in ("known", "unknown")
    }
    means = {k: torch.cat(acts_at(world_lm, s.ids, s.places, [AT])[AT]).mean(0) for k, s in sides.items()}
    gap = (means["unknown"] - means["known"]).numpy()
    rows = np.random.default_rng(0).normal(size=(6, D))
    rows[0] = gap
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    active = np.full((2, 6), np.linalg.norm(gap))
    analysis = analysis_of(mined(6, {"known": [], "unknown": [0]}, W_dec=rows, mean_active=active))
    config = SteeringConfig(strengths=(1.0, 300.0), n_entities=10, n_questions=2)
    windows = [encode_prompts(world_lm, ["The city of " * 20])[0][:32]] * 3
    return run_steering(world_lm, labels, world_templates, analysis, config, windows=windows)


def test_a_hard_push_takes_answers_and_none_changes_nothing(curves):
    by_kind = {c.kind: c for c in curves}
    assert set(by_kind) == {"selected", "random"} and {c.direction for c in curves} == {"unknown"}
    own, other = by_kind["selected"], by_kind["random"]
    assert own.strengths.tolist() == [0, 1, 300]
    np.testing.assert_array_equal(own.frac_verdicts[0], other.frac_verdicts[0], "without a push both are the same")
    np.testing.assert_allclose(own.frac_verdicts.sum(1), 1.0, err_msg="every answer has one verdict")
    right = [i.value for i in own.intervals("right")]
    assert right[0] > 0.9 and right[-1] < right[0] - 0.2
    assert own.text_loss[0] == pytest.approx(other.text_loss[0])
    assert own.text_loss[-1] > own.text_loss[0] + 0.05, "running text notices"


def test_random_pushes_are_as_long_and_others():
    rows = np.eye(8, D)
    active = np.tile(np.arange(1.0, 9.0), (2, 1))
    found = mined(8, {"known": [2], "unknown": [0, 1]}, W_dec=rows, mean_active=active)
    own = pushes_of(found, "unknown", "selected", 3, seed=0)
    assert own[:, :4].tolist() == [[1, 2, 0, 0]] * 3, "m_j W_dec[j], summed"
    other = pushes_of(found, "unknown", "random", 3, seed=0)
    np.testing.assert_allclose(other.norm(dim=1), own.norm(dim=1), rtol=1e-5)
    assert other[:, :3].abs().max() == 0 and (other != 0).sum(1).tolist() == [2] * 3


def test_directions_without_a_latent_have_no_curve(world_lm, labels, world_templates, analysis_of):
    empty = analysis_of(mined(6, {"known": [], "unknown": []}))
    assert run_steering(world_lm, labels, world_templates, empty, SteeringConfig()) == []


# -------------------------------------------------------------------------------------------------------- evidence


def test_contexts_are_the_strongest_places_of_running_text(world_lm, make_store):
    acts = torch.zeros(60, D)
    acts[7, 3], acts[8, 3], acts[25, 3], acts[41, 3], acts[52, 3] = 5, 2, 4, 3, 9
    entity = np.zeros(60, np.uint8)
    entity[52] = 1  # a row that was mixed in is no running text
    path = make_store(acts, from_entity=entity)
    sae = loaded(whole_sae(), "layers.0")
    with ActivationStore(path) as store:
        (snippets,) = top_contexts(world_lm, sae, [3], store)
        found = collect_evidence(world_lm, [sae], [{"known": [3], "unknown": []}], store)
        windows = store_windows(store, [1], n_windows=2, ctx_len=9, seed=0)
    assert [s.values[s.peak] for s in snippets] == [5, 4, 3]
    first = snippets[0]
    assert first.tokens == [world_lm.tokenizer.decode([i]) for i in range(10)], "its document, and no other"
    assert first.values[8] == 2
    assert len(found[0].promoted) == len(found[0].suppressed) == 10
    assert not set(found[0].promoted) & set(found[0].suppressed)
    assert [w[0] for w in windows] == [1, 1] and all(w[1] % 10 == 0 and len(w) == 9 for w in windows)


def test_logit_lens_goes_through_norm_and_unembedding(world_lm):
    """RMSNorm scales a lone direction and multiplies it by its weight: the order is that of unembed @ (weight * d)."""
    sae = whole_sae()
    direction = torch.randn(D, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        sae.W_dec[5] = direction
        logits = world_lm.model.get_output_embeddings().weight @ (world_lm.model.model.norm.weight * direction)
    (found,) = collect_evidence(world_lm, [loaded(sae)], [{"unknown": [5], "known": []}], None)
    assert found.promoted[0] == world_lm.tokenizer.decode([int(logits.argmax())])
    assert found.suppressed[0] == world_lm.tokenizer.decode([int(logits.argmin())])
    assert found.snippets == []


# -------------------------------------------------------------------------------------------------------- files


def test_steering_of_an_earlier_version_is_read(tmp_path, curves):
    with h5.create(tmp_path / "now.h5", "features.latents", 2, {}) as file:
        save_steering(file, curves)
        for part in file["steering"].values():
            part.move("frac_verdicts", "shares")
        again = load_steering(file, tmp_path / "now.h5")
    assert [c.summary() for c in again] == [c.summary() for c in curves]


def test_checks_round_trip(tmp_path, gate, curves, analysis_of, world_lm):
    (evidence,) = collect_evidence(world_lm, [loaded(whole_sae())], [{"known": [1], "unknown": []}], None)
    snippets = [Snippet([" A", " b\n", ""], [0.5, 2.0, 0.0], 1), Snippet(["é"], [1.0], 0)]
    evidence = replace(evidence, snippets=snippets)
    plain = analysis_of(mined(4, {"known": [], "unknown": []}))
    analysis = replace(plain, gate=gate, steering=curves, evidence=[evidence])
    save_analysis(analysis, tmp_path / "latents.h5")
    again = load_analysis(tmp_path / "latents.h5")
    assert again.summary()["gate"] == analysis.summary()["gate"] == gate.summary()
    assert again.gate is not None and again.gate.config == gate.config
    assert [c.summary() for c in again.steering] == [c.summary() for c in curves]
    assert again.evidence == [evidence]
    assert "passed at layers.1" in gate_line(again)
    save_analysis(plain, tmp_path / "plain.h5")
    without = load_analysis(tmp_path / "plain.h5")
    assert without.gate is None and without.steering == without.evidence == []
    assert gate_line(without) == "gate: not run"


def test_intervals_come_from_the_entities():
    half = HookPointGate(AT, None, np.ones(40), {"residual": np.r_[np.zeros(20), np.ones(20)]}, GateConfig())
    assert half.passing.value == 0.5
    assert 0.3 < half.passing.low < 0.5 < half.passing.high < 0.7
