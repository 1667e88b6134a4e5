"""Unlearning and the audit on a stand-in of a CUDA device (`fixtures_accelerator.py`): what comes out is the CPU's."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from sae_train.lm.models import LanguageModel
from sae_train.run.progress import no_advance
from unlearn.auditing.audit_run import run_parts
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig, configure
from unlearn.finetuning.finetune import TuneState, adamw, trainable_parameters, tune_step
from unlearn.methods import METHODS, build_method, npo
from unlearn.removals.run import RemovalTask, run_removal

QUICK = {"steps": 2, "batch_size": 4, "warmup_steps": 1, "max_loss_increase": 9.0}
OWN = {
    "redirect": {"guard_weight": 0.5},
    "crisp": {"ratio": 1.2},
    "pisces": {"ratio": 1.2, "strength": 1.0},
    "repselect": {"kl_budget": 0.1},
    "mean-difference": {"train": "lora"},
    "npo": {"train": "down_proj", "kl_budget": 5.0, "check_every": 1},
}
AUDITED = AuditConfig(
    n_neighbours=1,
    max_retain=2,
    control_draws=2,
    permutations=19,
    max_blocks=1,
    max_attacked=2,
    n_samples=1,
    attack_steps=(1,),
    attack_lrs=(1e-4,),
    attack_lessons=2,
)
GOES_IN = ("torch.tensor(", "torch.stack([ids, positions", "model(", "reference(", "is_name", ".share.to(")
PARTS = ("recall", "ranking", "utility", "logit-lens", "relearn", "quantize", "steer-back")
SAME = 0.05  # of the change that the method makes


@pytest.fixture
def removed(world_sae, world_analysis, world_labels, world_templates, world_targets, world_documents, tmp_path):
    """Return a function that removes two entities from a model, by a method and with an SAE that lies where it does."""

    def run(lm: LanguageModel, method: str) -> dict[str, torch.Tensor]:
        config = configure(method, **{**QUICK, **OWN.get(method, {})})
        saes = [_moved(world_sae, lm.device)]
        names, documents = [world_targets[0], world_targets[3]], world_documents[:40]
        task = RemovalTask(lm, saes, world_analysis, world_labels, world_templates, names, config, documents=documents)
        found = run_removal(task, tmp_path / lm.device.type)
        return {name: value.cpu() for name, value in found.lm.model.state_dict().items()}

    return run


def _moved(sae, device: torch.device):
    """Return a copy of an SAE on a device."""
    moved = deepcopy(sae).to(device)
    moved.hook_point, moved.folder = sae.hook_point, sae.folder
    return moved


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_removal_is_that_of_the_cpu(method, removed, world_lm, request):
    before = world_lm.model.state_dict()
    expected = removed(replace(world_lm, model=deepcopy(world_lm.model)), method)
    device = request.getfixturevalue("accelerator")
    found = removed(device.moved(world_lm), method)
    assert set(found) == set(expected)
    change, apart = (
        torch.stack([(of[n] - value).norm() for n, value in expected.items()]).norm() for of in (before, found)
    )
    # Of the whole change, not of each matrix: where retention begins at its minimum, Adam steps by rounding noise.
    assert 0 < change and apart <= SAME * change


# --------------------------------------------------------------------------------------------- the audit


@pytest.fixture
def audited(world_analysis, world_labels, world_templates, world_targets, world_documents):
    """Return a function that measures two targets on a pair of models, by some parts of an audit."""

    def run(before: LanguageModel, after: LanguageModel):
        request = Request(
            world_labels,
            world_templates,
            world_targets[::3],
            hook_point="layers.2",
            analysis=world_analysis,
            documents=world_documents[:20],
            text_name="corpus",
        )
        found, _ = run_parts(make_context(before, after, request, AUDITED), PARTS, no_advance)
        assert found.evaluated == PARTS
        return found

    return run


@pytest.mark.slow
def test_parts_of_an_audit_are_those_of_the_cpu(audited, world_lm, request):
    after = replace(world_lm, model=deepcopy(world_lm.model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in after.model.parameters():
            parameter.add_(0.2 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    expected = audited(world_lm, after)
    device = request.getfixturevalue("accelerator")
    found = audited(device.moved(world_lm), device.moved(after))
    device.agree(found, expected, rtol=1e-2, atol=1e-3)


# --------------------------------------------------------------------------------------------- waits, planted faults


@pytest.fixture
def waits(world_problem, request):
    """Return a function that takes steps of a method on the device; where the host waited in each of them."""

    def run(method: str, **settings) -> list[Counter]:
        problem = world_problem(method=method, **settings)
        device = request.getfixturevalue("accelerator")
        other = device.moved(replace(problem.lm, model=problem.reference)).model
        words = {"lm": device.moved(problem.lm), "reference": other, "original": other}
        problem = replace(problem, **words, sae=_moved(problem.sae, words["lm"].device))
        objective, found = build_method(problem), []
        own = trainable_parameters(problem.lm.model, problem.config.train)
        state = TuneState(own, adamw(own.values(), 1e-3), 1e-3)
        for _ in range(3):
            device.waits.clear()
            tune_step(state, objective, problem.config, problem.lm.device)
            found.append(Counter(device.waits))
        return found

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("method", "own"), [("redirect", {"guard_weight": 0.5}), ("npo", {}), ("rmu", {})])
def test_a_step_waits_only_for_what_goes_in(method, own, waits):
    """Token ids and places that go to the device, transformers' look at a mask, and which tokens are of a name."""
    for step in waits(method, **own):
        assert step and all(any(part in line for part in GOES_IN) for line in step), step


@pytest.mark.slow
def test_a_tensor_made_on_the_host_inside_a_loss_is_found(waits, monkeypatch):
    monkeypatch.setattr(npo, "npo_loss", lambda log_probs, *_: (log_probs + torch.zeros(len(log_probs))).mean())
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu"):
        waits("npo")


@pytest.mark.slow
def test_a_value_that_the_host_reads_inside_a_loss_is_counted(waits, monkeypatch):
    own = npo.npo_loss
    monkeypatch.setattr(npo, "npo_loss", lambda log_probs, *rest: own(log_probs, *rest) + 0 * log_probs.sum().item())
    for step in waits("npo"):
        assert [n for line, n in step.items() if "log_probs.sum().item()" in line] == [1]
