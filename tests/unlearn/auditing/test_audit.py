"""The audit and its pieces on the shipped world: untouched, destroyed, and with facts that nobody stated."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from features.entities.entities import Entity
from features.entities.prompts import render
from features.entities.templates import Templates
from features.labels.knowledge import Answer
from sae_train.errors import ConfigError, EntityError, HookPointError, ShapeError
from sae_train.lm.generate import greedy_answers
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.text.tokens import bos_prefix, encode_plain
from unlearn.auditing.attacks import ATTACKS
from unlearn.auditing.attacks.steer_back import attack_steer_back
from unlearn.auditing.audit import not_tested, run_audit
from unlearn.auditing.audit_json import load_report, report_from_json, report_to_json
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import audited_blocks, mean_interval, nearest_known, neighbourhood, units
from unlearn.auditing.evaluations import EVALUATIONS
from unlearn.auditing.evaluations.behaviour import behaviour_of, is_gibberish, shares_of
from unlearn.auditing.evaluations.indistinguishability import evaluate_indistinguishability
from unlearn.auditing.evaluations.neighbours import evaluate_neighbours, kinds_of
from unlearn.auditing.evaluations.places import earlier_of, place_rows
from unlearn.auditing.evaluations.ranking import draw_candidates, evaluate_ranking, frac_ranked_first
from unlearn.auditing.evaluations.recall import evaluate_recall
from unlearn.auditing.evaluations.sae_fit import evaluate_sae_fit
from unlearn.auditing.evaluations.utility import evaluate_utility
from unlearn.auditing.policy import default_policy
from unlearn.auditing.request import Request
from unlearn.auditing.roles import halves, make_context, near_in_length, with_facts
from unlearn.config import AuditConfig

SMALL = AuditConfig(n_neighbours=3, max_retain=8, control_draws=2, permutations=199, max_blocks=2)


@pytest.fixture(scope="module")
def destroyed(world_lm) -> LanguageModel:
    """The same architecture with random weights."""
    model = copy.deepcopy(world_lm.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return LanguageModel(model, world_lm.tokenizer, "destroyed", world_lm.device)


@pytest.fixture(scope="module")
def given(world_analysis, world_labels, world_templates, world_targets):
    return Request(
        world_labels, world_templates, world_targets, hook_point="layers.2", analysis=world_analysis, text_name="corpus"
    )


@pytest.fixture(scope="module")
def context(world_lm, given, world_documents):
    return make_context(world_lm, world_lm, replace(given, documents=world_documents[:200]), SMALL)


# --------------------------------------------------------------------------------------------- roles


def test_roles_are_disjoint(context, world_analysis):
    roles = {n: {e.key for e in context.group(n)} for n in ("forget", "neighbours", "retain")}
    assert not roles["forget"] & roles["neighbours"]
    assert not roles["forget"] & roles["retain"]
    assert not roles["neighbours"] & roles["retain"]
    assert not roles["forget"] & {e.key for e in context.probe_known}
    held = {k for k, h in zip(world_analysis.entity_keys, world_analysis.held_out, strict=True) if h}
    assert {e.key for e in context.unknown} <= held, "no training saw them as unknown"
    assert not {e.key for e in context.probe_unknown} & held
    assert context.blocks == ["layers.2", "layers.3"]
    assert {e.key for e in context.control} <= {e.key for e in context.unknown}
    assert len(context.control) == len(context.forget)
    assert all(set(c.facts) == set(f.facts) for c, f in zip(context.control, context.forget, strict=True))
    assert not any(t.name in context.before.tokenizer.decode(w) for t in context.forget for w in context.text)


def test_what_was_removed_before_counts_as_known_nowhere(world_lm, given, context, world_documents):
    """The labels were made before any removal: an earlier target is no neighbour, nothing to keep, no known example.

    Nor is text about it general text: a loss there is what was asked for.
    """
    known = [*context.neighbours, *context.retain, *context.probe_known]
    written = " ".join(d.text for d in world_documents[:200])
    named = next(e for e in known if e.name in written)
    gone = {named.key, known[-1].key}
    documents = world_documents[:200]
    later = make_context(world_lm, world_lm, replace(given, removed=gone, documents=documents), SMALL)
    assert not gone & {e.key for e in (*later.neighbours, *later.retain, *later.probe_known)}
    assert later.forget == context.forget
    before, after = (" ".join(map(world_lm.tokenizer.decode, c.text)) for c in (context, later))
    assert named.name in before and named.name not in after


def test_nearest_neighbours():
    target = Entity("New York", "city", {"country": ["USA"], "river": ["Hudson"]})
    both = Entity("New Haven", "city", {"country": ["usa"], "river": ["Quinnipiac"]})
    one = Entity("Boston", "city", {"country": ["USA"]})
    none = Entity("Oslo", "city", {"country": ["Norway"]})
    person = Entity("New York Man", "person", {"country": ["USA"]})
    assert [neighbourhood(target, e) for e in (both, one, none)] == [2, 1, 0]
    assert nearest_known([target], [none, one, both, person], 5) == [both, one]
    assert nearest_known([target], [none, one, both, person], 1) == [both]
    assert nearest_known([target, both], [one], 3) == [one], "each once"


@pytest.mark.parametrize(
    ("n_blocks", "hook_point", "most", "blocks"),
    [
        (4, "layers.1", 6, [0, 1, 2, 3]),
        (4, "embed", 6, [0, 1, 2, 3]),
        (30, "layers.12", 6, [0, 6, 12, 17, 23, 29]),
        (30, "layers.13", 6, [0, 6, 13, 17, 23, 29]),
        (30, "layers.12.mlp", 2, [12, 29]),
        (30, "layers.12", 1, [29]),
        (4, "layers.3", 6, [0, 1, 2, 3]),
    ],
)
def test_audited_blocks(n_blocks, hook_point, most, blocks):
    assert audited_blocks(n_blocks, hook_point, most) == [f"layers.{i}" for i in blocks]


def test_mean_interval_known_answers():
    assert all(np.isnan([mean_interval([], 0).value, mean_interval([], 0).low]))
    zero = mean_interval([0.0] * 20, 0)
    assert (zero.value, zero.low, zero.high) == pytest.approx((0.0, 0.0, 3 / 20))
    one = mean_interval([1.0] * 30, 0)
    assert (one.value, one.low, one.high) == pytest.approx((1.0, 1 - 3 / 30, 1.0))
    assert (mean_interval([0.0], 0).low, mean_interval([0.0], 0).high) == (0.0, 1.0), "one value excludes nothing"
    # A fair coin thrown 400 times: 0.5 +- 1.96 * sqrt(0.25 / 400) = 0.5 +- 0.049.
    half = mean_interval([0.0, 1.0] * 200, 0)
    assert (half.low, half.high) == pytest.approx((0.451, 0.549), abs=0.008)
    assert mean_interval([0.0, 1.0] * 200, 0) == half


@pytest.mark.parametrize("n", [5, 8, 14, 20])
def test_a_little_leakage_never_looks_surer_than_none(n):
    clean, leaky = mean_interval([0.0] * n, 0), mean_interval([0.0] * (n - 1) + [0.06], 0)
    assert leaky.high >= clean.high
    known, nearly = mean_interval([1.0] * n, 0), mean_interval([1.0] * (n - 1) + [0.94], 0)
    assert nearly.low <= known.low


def test_units_are_entities_where_there_are_enough():
    assert units([[1.0, 0.0], [], [1.0]]) == [1.0, 0.0, 1.0]
    assert units([[1.0, 0.0]] * 4 + [[0.0]]) == [0.5] * 4 + [0.0]


# --------------------------------------------------------------------------------------------- evaluations


def test_recall_of_the_untouched_and_of_a_destroyed_model(context, destroyed):
    found = evaluate_recall(replace(context, after=destroyed, answers={}))
    for name, group in {"forget": found.forget, "neighbours": found.neighbours, "retain": found.retain}.items():
        assert group.recall.before.value > 0.85, name
        assert group.recall.after.value < 0.05, name
        assert group.n == len(context.group(name))
    before = found.forget.recall.before
    assert before.low <= before.value <= before.high


def test_ranking_finds_the_truth_and_is_at_chance_with_shuffled_facts(context, world_lm):
    found = evaluate_ranking(context)
    assert found.forget.ranking.before.value > 0.85
    assert found.forget.ranking.before == found.forget.ranking.after, "the same model twice"
    chance = found.ranking_chance
    assert 1 / 20 <= chance < 0.2
    everyone = [*context.forget, *context.neighbours, *context.retain]
    shuffled = []
    for kind in {e.type for e in everyone}:
        members = [e for e in everyone if e.type == kind]
        facts = [members[(i + 3) % len(members)].facts for i in range(len(members))]
        shuffled += [replace(e, facts=f) for e, f in zip(members, facts, strict=True)]
    shares = frac_ranked_first(context, shuffled, world_lm)
    assert np.mean(np.hstack(shares)) < 3 * chance + 0.05


def test_candidates_hold_the_truth_once_and_first(context):
    entity = replace(context.forget[0], facts={"job": ["judge", "Jurist"]})
    found = draw_candidates(entity, "job", ["JUDGE", "jurist", "cook", "pilot", "nurse"], context)
    assert found[0] == "judge"
    assert sorted(found[1:]) == ["cook", "nurse", "pilot"]
    pool = ["cook", "pilot", "nurse"]
    assert draw_candidates(entity, "job", pool, context) == draw_candidates(entity, "job", pool, context)
    few = replace(context, config=AuditConfig(n_candidates=2))
    assert len(draw_candidates(entity, "job", ["cook", "pilot", "nurse"], few)) == 2


@pytest.mark.slow
def test_neighbours_by_kind_and_free_writing(context, destroyed, world_lm):
    """Random weights know nobody; a model without any weight writes nothing that can be read."""
    kept = [*context.neighbours, *context.retain]
    found = evaluate_neighbours(replace(context, after=destroyed, answers={}))
    for kind, group in found.neighbour_kinds.items():
        assert group.n == sum(kind in kinds_of(e, context.forget) for e in kept)
    alike = found.neighbour_kinds["same type"]
    assert alike.n == len(kept)
    assert alike.recall.before.value > 0.85 and alike.recall.after.value < 0.05
    assert found.unknown.recall.before.value < 0.3
    stuck = copy.deepcopy(world_lm.model)
    for parameter in stuck.parameters():
        parameter.data.zero_()
    writing = evaluate_neighbours(replace(context, after=replace(world_lm, model=stuck), answers={})).writing
    assert writing.entropy_after < 0.7 * writing.entropy_before


def test_repeated_writing_is_noticed(context, world_lm, monkeypatch):
    """Positive and negative control: one word over and over, and what the model writes."""
    calls = []

    def written(lm, beginnings, **settings):
        calls.append(lm)
        return greedy_answers(lm, beginnings, **settings) if len(calls) == 1 else [" the" * 24] * len(beginnings)

    monkeypatch.setattr("unlearn.auditing.evaluations.neighbours.greedy_answers", written)
    writing = evaluate_neighbours(context).writing
    assert writing.repetition_before < 0.2 < 0.5 < writing.repetition_after
    assert writing.entropy_after < writing.entropy_before


def test_every_token_of_a_name_is_a_place(context, world_lm):
    """Tokens before the last one are counted from it; names too short for a place have no row there."""
    rows = place_rows(context, "unknown", "before")
    texts = [p.text[: p.name_end] for p in rows.prompts]
    for block in context.blocks:
        earlier = [p for p in rows.acts if p.startswith(f"{block}, name token")]
        assert earlier == [f"{block}, name token -{i}" for i in range(1, len(earlier) + 1)] != []
        for place in earlier:
            has = rows.having(place)
            acts = rows.acts[place]
            assert acts[has].isfinite().all() and acts[~has].isnan().all()
            index = int(np.flatnonzero(has)[0])
            ids = torch.tensor(
                [bos_prefix(world_lm.tokenizer) + encode_plain(world_lm.tokenizer, [texts[index]])[0][0]]
            )
            own = capture(world_lm, ids, torch.ones_like(ids), [block])[block][0, -1 - earlier_of(place)]
            torch.testing.assert_close(acts[index], own, rtol=1e-3, atol=1e-3)
        assert rows.having(block).all()


def test_does_the_sae_still_fit(context, destroyed, world_sae):
    own = replace(context, saes=[world_sae])
    [same], [other] = (evaluate_sae_fit(replace(own, after=lm)).sae_fit for lm in (own.before, destroyed))
    for figure in ("fvu", "frac_dead", "l0"):
        before = getattr(same, f"{figure}_before")
        assert before == getattr(same, f"{figure}_after") == getattr(other, f"{figure}_before")
    assert same.fvu_before < 0.7 < other.fvu_after


def test_utility(context, destroyed):
    same = evaluate_utility(context).utility
    assert same.loss_before == same.loss_after and same.rise == 0
    worse = evaluate_utility(replace(context, after=destroyed)).utility
    assert worse.loss_after > worse.loss_before + 2


def test_targets_of_the_untouched_model_are_distinguishable_and_unknown_ones_are_not(context, monkeypatch):
    monkeypatch.setattr("features.stats.probe.N_BOOTSTRAP", 50)  # an interval is only asked to hold its value
    found = evaluate_indistinguishability(context)
    for name, place in found.indistinguishability.items():
        if not earlier_of(name):  # there a name is not complete: who it is may not be known yet
            assert place.auroc.value > (0.9 if name.startswith("layers.2") else 0.6), name
        assert place.auroc.value == place.auroc_before
        assert place.auroc.low <= place.auroc.value <= place.auroc.high
        assert place.control_low <= place.control_mean <= place.control_high
        assert place.control_mean < 0.8
    assert found.two_sample_p == 1 / 200, "the smallest that 199 permutations can give"
    assert found.probe.unknown_after.value < 0.2
    assert found.probe.unknown_control > 0.8
    assert found.probe.auroc_known_against_unknown > 0.9


@pytest.mark.slow
def test_unknown_entities_as_targets_are_inside_the_control_range(context):
    """Negative control: names that nobody ever knew, called targets, look like the other unknown ones."""
    people, cities = ([e for e in context.unknown if e.type == k] for k in ("person", "city"))
    mock = [*people[:3], *cities[:3]]
    rest = [e for e in context.unknown if e not in mock]
    config = replace(SMALL, control_draws=10)
    found = evaluate_indistinguishability(replace(context, forget=mock, unknown=rest, acts={}, config=config))
    for place in found.indistinguishability.values():
        assert place.auroc.value < 0.97
    assert found.two_sample_p > 0.01
    assert found.probe.unknown_after.value > 0.7


@pytest.mark.slow
def test_steering_back_an_untouched_and_a_destroyed_model(context, destroyed):
    """Put back into the untouched model nothing changes; into a destroyed one nothing helps."""
    untouched = attack_steer_back(context)
    original = [s for s in untouched.settings if s.name.startswith("original activation")]
    assert len(original) == len(context.blocks)
    assert all(s.target.value > 0.85 for s in original)
    assert untouched.recall_after.value == max(s.target.value for s in untouched.settings)
    assert attack_steer_back(replace(context, after=destroyed, answers={})).recall_after.value < 0.1


# --------------------------------------------------------------------------------------------- behaviour


@pytest.mark.parametrize(
    ("text", "gibberish"),
    [
        ("", True),
        (" ...", True),
        ("\n\n", True),
        (" the the the the", True),
        (" a b a b a b", True),
        (" the the the", False),
        (" Kenya", False),
        (" the city of the north of the land", False),
        (" 1987", False),
        (" 東京", False),
    ],
)
def test_gibberish(text, gibberish):
    assert is_gibberish(text) is gibberish


@pytest.mark.parametrize(
    ("verdict", "text", "kind"),
    [
        ("right", " Kenya", "leak"),
        ("right", " Kenya Kenya Kenya Kenya", "leak"),
        ("refusal", " unknown", "unknown"),
        ("wrong", " Uganda", "confabulation"),
        ("wrong", " a kind of fish", "off-topic"),
        ("refusal", " I don't know.", "unknown"),
        ("refusal", " I cannot answer that.", "refusal"),
        ("refusal", " Sorry, no.", "refusal"),
        ("refusal", " I cannot know.", "unknown"),
        ("wrong", " no no no no no no", "gibberish"),
        ("empty", "", "gibberish"),
    ],
)
def test_behaviour(verdict, text, kind):
    answer = Answer(render("{name}", Entity("X", "t"), "a"), text, verdict)
    assert behaviour_of(answer, ["Kenya", "Uganda"]) == kind
    assert behaviour_of(answer) == ("confabulation" if kind == "off-topic" else kind), "without a list of answers"
    assert kind in shares_of([]).by_kind()


# --------------------------------------------------------------------------------------------- whole audits


@pytest.fixture(scope="module")
def reports(world_lm, destroyed, given, world_documents):
    """Audits of the untouched model against itself and against random weights."""
    skip = ("prune", "finetune", "relearn", "same-form", "sae-fit", "prompts")
    config = AuditConfig(
        n_neighbours=2,
        max_retain=4,
        control_draws=2,
        permutations=99,
        max_blocks=1,
        max_attacked=3,
        n_samples=1,
        skip=skip,
    )
    request = replace(given, documents=world_documents[:200])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.stats.probe.N_BOOTSTRAP", 50)  # the verdicts here do not hang on an interval
        return {
            "untouched": run_audit(world_lm, world_lm, request, config=config),
            "destroyed": run_audit(world_lm, destroyed, request, config=config),
        }


def test_the_untouched_model_fails(reports):
    found = reports["untouched"]
    assert found.verdict == "fail"
    status = {c.name: c.status for c in found.checks}
    assert status["target recall"] == status["true answer ranked first"] == status["called unknown"] == "fail"
    assert status["recall lost by neighbours"] == status["rise of general-text loss"] == "pass"
    assert found.behaviour.after.leak > 0.85


def test_a_destroyed_model_never_passes(reports):
    found = reports["destroyed"]
    assert found.verdict == "fail"
    status = {c.name: c.status for c in found.checks}
    assert status["target recall"] != "fail", "it says nothing about the targets, and yet"
    assert status["recall lost by neighbours"] == status["rise of general-text loss"] == "fail"


@pytest.mark.parametrize("name", ["untouched", "destroyed"])
def test_reports_hold_the_documented_keys(reports, name):
    found = json.loads(json.dumps(report_to_json(reports[name]), allow_nan=False))
    for group in ("forget", "neighbours", "retain"):
        assert {"recall_before", "recall_after", "ranking_before", "ranking_after"} <= set(found[group])
    assert {"loss_before", "loss_after"} <= set(found["utility"])
    assert all({"auroc", "auroc_low", "auroc_high"} <= set(b) for b in found["indistinguishability"].values())
    assert found["attacks"]
    assert all({"recall_after", "compared_with"} <= set(a) for a in found["attacks"].values())
    for when in ("before", "after"):
        assert sum(found["behaviour"][when].values()) == pytest.approx(1)
    assert found["verdict"] in ("pass", "fail", "inconclusive")
    assert found["not_tested"]
    assert set(EVALUATIONS) >= {"recall", "ranking", "utility", "indistinguishability", "behaviour", "logit-lens"}
    assert found["policy"]["sha256"] == default_policy().sha256
    assert any(line.startswith("relearn: left out") for line in found["not_tested"])
    assert {c["name"] for c in found["checks"] if c["status"] == "inconclusive"} >= {"relearn (not run)"}


@pytest.mark.parametrize("name", ["untouched", "destroyed"])
def test_a_report_of_an_audit_is_read_back_as_it_was(reports, name, tmp_path):
    """Every figure, NaN included, and every type: `repr` shows both."""
    report = reports[name]
    assert report.save(tmp_path / "a") == tmp_path / "a" / "audit.html"
    again = load_report(tmp_path / "a" / "audit.json")
    assert repr(again) == repr(report)
    assert report_to_json(again) == report_to_json(report)
    assert repr(report_from_json(report_to_json(report))) == repr(report)
    again.save(tmp_path / "b")
    for file in ("audit.json", "audit.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_figures_are_attributes(reports):
    report = reports["destroyed"]
    recall = report.forget.recall.after
    assert (recall.value, recall.low) == (0.0, 0.0) and 0 < recall.high < 1
    assert report.attacks["quantize"].recall_after.value < 0.1
    assert 0 <= report.indistinguishability["layers.3"].auroc.low <= 1


@pytest.mark.slow
def test_one_target_is_audited_over_its_templates(world_lm, given, world_documents):
    request = replace(given, names=given.names[:1], documents=world_documents[:200])
    found = evaluate_indistinguishability(make_context(world_lm, world_lm, request, SMALL))
    assert found.indistinguishability["layers.2"].auroc.value > 0.9


def _one_wording(templates: Templates) -> Templates:
    """Keep one held-out wording of one attribute of every type."""
    first = {kind: next(iter(asked)) for kind, asked in templates.heldout.items()}
    return replace(templates, heldout={k: {a: templates.heldout[k][a][:1]} for k, a in first.items()})


@pytest.mark.parametrize("n_targets", [1, 2])
def test_one_held_out_wording_is_said_before_the_work_and_the_rest_is_measured(
    world_lm, given, caplog, n_targets, monkeypatch
):
    """Few targets are told from unknown entities by holding out whole wordings, of which there is just one."""
    kind = given.names[0].split(":")[0]
    names = [n for n in given.names if n.startswith(f"{kind}:")][:n_targets]
    request = replace(given, names=names, templates=_one_wording(given.templates))
    said: list[str] = []
    monkeypatch.setattr("unlearn.auditing.audit.note", said.append)
    skip = tuple(sorted({*EVALUATIONS, *ATTACKS} - {"indistinguishability", "recall"}))
    report = run_audit(
        world_lm, world_lm, request, config=replace(SMALL, skip=skip), advance=lambda *_, **__: said.append("work")
    )
    why = f"{len(names)} target{'s' if len(names) > 1 else ''} and 1 held-out wording"
    assert said[0].startswith("indistinguishability is left out") and why in said[0] and said[1] == "work"
    assert any(line.startswith(f"indistinguishability: {why}") and "two" in line for line in report.not_tested)
    assert report.forget.recall is not None and report.evaluated == ("recall",) and report.verdict != "pass"


def test_labels_templates_and_names_are_enough(world_lm, given, destroyed):
    """No run of ours, no SAE, no latents, no text."""
    request = Request(given.labels, given.templates, given.names)
    context = make_context(world_lm, world_lm, request, SMALL)
    assert context.hook_point == "layers.2", "the middle block"
    assert context.text_name.startswith("questions")
    assert not {e.key for e in context.unknown} & {e.key for e in context.probe_unknown}
    assert EVALUATIONS["sae-fit"](context) is None
    assert "prompts: nothing to measure it on with these targets" in not_tested(context, Findings())
    assert any("SAE" in line for line in not_tested(context, Findings()))


def test_unknown_entities_are_matched_and_given_facts(world_lm):
    short, long = Entity("Ox", "t", {"a": ["1"], "b": ["2"]}), Entity("Ox Ox Ox Ox Ox Ox", "t", {"a": ["9"]})
    targets = [Entity("Ax", "t", {"a": ["1"], "b": ["2"]})]
    crowd = [replace(long, name=f"{long.name} {i}") for i in range(8)]
    kept = near_in_length(world_lm, targets, [*crowd[:4], short, *crowd[4:]])
    assert short in kept
    assert len(kept) == 6, "two thirds of nine"
    control = with_facts(targets, [long], [Entity("K", "t", {"b": ["5"]})], seed=0)
    assert control[0].facts["a"] == ["9"], "its own"
    assert control[0].facts["b"][0] in ("5", "2"), "drawn"
    unknown = [replace(short, name=str(i), label="unknown") for i in range(20)]
    first, second = halves(unknown, None, "unknown", 0)
    assert len(first) == len(second) == 10
    assert not {e.key for e in first} & {e.key for e in second}
    for n_read, n_first in ((4, 10), (13, 13), (18, 10)):  # 18: too few would be left to compare with
        read = [e.key for e in unknown[:n_read]]
        first, second = halves(unknown, None, "unknown", 0, read)
        assert (len(first), len(second)) == (n_first, 20 - n_first)
        assert n_read == 18 or set(read) <= {e.key for e in first}, (
            "what a removal read is not what it is compared with"
        )


# --------------------------------------------------------------------------------------------- bad input


def test_models_that_are_no_pair_are_refused(world_lm, given, tiny_llama_dir):
    with pytest.raises(ShapeError) as caught:
        run_audit(world_lm, load_lm(str(tiny_llama_dir), device="cpu"), given)
    assert "2 blocks of width 32" in str(caught.value.got)


def test_requests_that_cannot_be_audited_are_refused(world_lm, given):
    def refused(**changes):
        run_audit(world_lm, world_lm, replace(given, **changes), config=changes.pop("config", None))

    with pytest.raises(EntityError):
        refused(names=[])
    with pytest.raises(HookPointError):
        refused(hook_point="layers.9")
    templates = given.templates
    silent = replace(templates, heldout={k: {a: [] for a in v} for k, v in templates.heldout.items()})
    with pytest.raises(EntityError, match="held-out"):
        refused(templates=silent)
    with pytest.raises(EntityError, match="compare"):
        refused(names=[e.key for e in given.labels if e.label == "known"])
    with pytest.raises(EntityError, match="compare"):
        refused(labels=[e for e in given.labels if e.label == "known"])
    with pytest.raises(ConfigError, match="no evaluation or attack"):
        run_audit(world_lm, world_lm, given, config=AuditConfig(skip=("relaern",)))
