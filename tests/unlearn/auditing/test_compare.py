"""Other models beside the audited one: the same figures for the same model, its own for another, none that flatters."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from sae_train.errors import ShapeError
from sae_train.lm.models import load_lm
from unlearn.auditing.attacks import ATTACKS
from unlearn.auditing.audit import run_audit
from unlearn.auditing.audit_figures import Walk
from unlearn.auditing.audit_json import report_from_json, report_to_json
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.compare import KEPT, Other, compare_models, short_names
from unlearn.auditing.evaluations import EVALUATIONS
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig
from unlearn.pages.audit_page import write_audit_page
from unlearn.pages.compare_page import ORIGINAL, compare_view

RUN = ("recall", "ranking", "utility", "behaviour", "indistinguishability", "walk", "relearn")
SMALL = AuditConfig(
    n_neighbours=2,
    max_retain=4,
    control_draws=2,
    permutations=19,
    max_blocks=1,
    max_attacked=2,
    n_samples=0,
    attack_steps=(1,),
    attack_lrs=(1e-4,),
    skip=tuple(n for n in (*EVALUATIONS, *ATTACKS) if n not in RUN),
)


@pytest.fixture(scope="module")
def request_(world_analysis, world_labels, world_templates, world_targets, world_documents):
    return Request(
        world_labels,
        world_templates,
        world_targets[::3],  # a person and a city
        hook_point="layers.2",
        analysis=world_analysis,
        documents=world_documents[:60],
        text_name="corpus",
        facts={"unlearned": "runs/ours"},
    )


@pytest.fixture(scope="module")
def damaged(world_lm):
    """The shipped model with noise on its weights: it answers nothing rightly, so it "forgot"."""
    model = copy.deepcopy(world_lm.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return replace(world_lm, model=model)


@pytest.fixture(scope="module")
def report(world_lm, request_, damaged):
    """An audit of the untouched model, beside itself and beside the damaged one."""
    others = [Other("runs/twin", lambda: world_lm, "none"), Other("else/damaged", lambda: damaged)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.stats.probe.N_BOOTSTRAP", 20)
        return run_audit(world_lm, world_lm, replace(request_), config=SMALL, others=others)


@pytest.mark.slow
def test_the_same_model_has_the_same_figures(report):
    """Whatever differs between two models is theirs: groups, questions, draws and places are the same."""
    twin = report.compare["twin"]
    for part in KEPT:
        wanted = getattr(report, part)
        if part == "walk":
            wanted = {block: Walk(after=panel.after) for block, panel in wanted.items()}
        assert getattr(twin, part) == wanted, part
    assert set(twin.attacks) == {"relearn"}
    assert twin.unlearned_hash == report.request.unlearned_hash


@pytest.mark.slow
def test_another_model_has_its_own(report):
    damaged = report.compare["damaged"]
    theirs, ours = damaged.forget.recall, report.forget.recall
    assert theirs.before == ours.before and ours.before.value > 0.8
    assert theirs.after.value < 0.3 < ours.after.value
    assert damaged.utility.loss_after > damaged.utility.loss_before + 0.5
    assert damaged.walk["layers.3"].after != report.walk["layers.3"].after
    assert not hasattr(damaged, "verdict")


@pytest.mark.slow
def test_what_is_written_of_them_is_read_back(report):
    raw = report_to_json(report)
    again = report_from_json(raw)
    assert repr(again.compare) == repr(report.compare)
    beside = raw["compare"]["damaged"]
    assert list(beside) == [
        "unlearned", "unlearned_hash", "method", "forget", "neighbours", "retain", "ranking_chance", "utility",
        "behaviour", "indistinguishability", "two_sample_p", "probe", "walk", "attacks",
    ]  # fmt: skip
    assert all(set(panel) == {"after"} for panel in beside["walk"].values()), "the rest is the audit's own"


@pytest.mark.slow
def test_the_page_shows_them_with_their_price(report, tmp_path):
    original, own, twin, damaged = compare_view(report)
    assert (original.name, own.name, twin.name, damaged.name) == (ORIGINAL, "ours", "twin", "damaged")
    assert (own.recall, own.auroc, own.auroc_place) == (twin.recall, twin.auroc, twin.auroc_place)
    assert len({own.colour, twin.colour, damaged.colour}) == len({own.shape, twin.shape, damaged.shape}) == 3
    assert damaged.loss > 0.1 > abs(twin.loss)
    source = write_audit_page(report, tmp_path / "audit.html").read_text(encoding="utf-8")
    legend = source[source.index("Other models, asked to forget") : source.index("layers.3</code>")]
    assert "twin (text loss +0.0" in legend and "damaged (text loss +" in legend and "gibberish" in legend
    assert "by twin at" in source and "<title>damaged</title>" in source


def test_without_its_price_nothing_of_the_inside_is_taken(world_lm, request_, tmp_path):
    config = replace(SMALL, skip=(*SMALL.skip, "behaviour", "ranking", "relearn"))
    found = compare_models(make_context(world_lm, world_lm, request_, config), [Other("x", lambda: world_lm)])
    measured = {part for part, value in found["x"].parts().items() if value != getattr(Findings(), part)}
    assert measured == {"forget", "neighbours", "retain", "utility"}


def test_a_model_that_is_no_pair_is_refused(world_lm, request_, tiny_llama_dir):
    stranger = Other("tiny", lambda: load_lm(str(tiny_llama_dir), device="cpu"))
    with pytest.raises(ShapeError) as caught:
        run_audit(world_lm, world_lm, request_, config=SMALL, others=[stranger])
    assert "2 blocks of width 32" in str(caught.value.got) and caught.value.field == "compare"


def test_models_are_called_by_what_tells_them_apart():
    assert short_names(["a/unlearned", "b/unlearned/", "/c/idk"]) == ["a/unlearned", "b/unlearned", "idk"]
    assert short_names(["x", "a/x", "x"]) == ["x", "a/x", "x (2)"]
