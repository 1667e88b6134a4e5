"""The plan of a removal: what it counts, that it changes nothing, and that a large run announces it."""

from __future__ import annotations

import copy

import pytest
import torch

from sae_train.errors import ConfigError
from sae_train.lm.models import weights_hash
from sae_train.machine.memory import PeakMemory
from sae_train.run.progress import silent
from unlearn import plan_unlearning
from unlearn.config import configure
from unlearn.finetuning.step_plan import plan_steps, weights_bytes
from unlearn.removals import run as removal_run

MIB = 2**20


class OneProduct:
    """A loss whose graph holds a known amount: the squares of `n_rows` rows behind the first trained matrix."""

    def __init__(self, lm, n_rows):
        self.lm, self.n_rows, self.asked = lm, n_rows, []

    def parts(self, step):
        self.asked.append(step)
        return [self._part]

    def _part(self):
        from unlearn.finetuning.finetune import LossTerms

        weight = next(p for p in self.lm.model.parameters() if p.ndim == 2 and p.requires_grad)
        rows = torch.ones(self.n_rows, weight.shape[1]) @ weight.T
        return LossTerms(rows.square().mean(), {})


@pytest.fixture
def own_lm(world_lm):
    """The world's model with parameters of its own, which may be asked for gradients."""
    from dataclasses import replace

    from sae_train.lm.models import sharing_copy

    return replace(world_lm, model=sharing_copy(world_lm.model, []))


def test_what_is_held_is_counted_by_what_is_trained(own_lm):
    one = weights_bytes([own_lm.model])
    plans = {
        train: plan_steps(own_lm, [own_lm.model], OneProduct(own_lm, 2), configure("npo", train=train, steps=7))
        for train in ("full", "down_proj")
    }
    for plan in plans.values():
        # Working memory is near nothing here: two rows.
        assert plan.memory_bytes - one - 4 * 4 * plan.trained < 8 * MIB
        assert plan.memory_bytes >= one + 4 * 4 * plan.trained, "the copy, its gradient and two moments, float32"
        assert plan.weights_bytes == one and plan.steps == 7 and plan.seconds > 0
    assert plans["down_proj"].trained < plans["full"].trained
    kept = plan_steps(own_lm, [own_lm.model], OneProduct(own_lm, 2), configure("npo", kl_budget=1.0, steps=7))
    assert kept.memory_bytes >= one + 5 * 4 * kept.trained, "a KL budget keeps the last state within it"


def test_two_models_that_share_memory_count_once(own_lm, world_lm):
    one = weights_bytes([world_lm.model])
    assert one <= weights_bytes([own_lm.model, world_lm.model]) < 1.01 * one, "buffers are small, and their own"
    assert weights_bytes([copy.deepcopy(world_lm.model), world_lm.model]) == 2 * one, "negative control"


def test_the_working_memory_is_measured_and_grows_with_the_batch(own_lm):
    config = configure("npo", steps=1)
    small, large = (plan_steps(own_lm, [own_lm.model], OneProduct(own_lm, n), config) for n in (2, 200_000))
    width = next(p for p in own_lm.model.parameters() if p.ndim == 2 and p.requires_grad).shape[0]
    assert large.memory_bytes - small.memory_bytes > 0.5 * 4 * 200_000 * width


def test_trying_out_leaves_no_gradient_and_begins_at_the_first_batch(own_lm):
    objective, before = OneProduct(own_lm, 2), weights_hash(own_lm.model)
    plan_steps(own_lm, [own_lm.model], objective, configure("npo"))
    assert objective.asked == [0, 1]
    assert all(p.grad is None for p in own_lm.model.parameters())
    assert weights_hash(own_lm.model) == before


def test_the_peak_of_what_is_freed_again_is_seen():
    with PeakMemory(torch.device("cpu")) as peak:
        held = torch.ones(64 * MIB // 4)
        del held
    assert peak.n_bytes > 48 * MIB
    with PeakMemory(torch.device("cpu")) as peak:
        pass
    assert peak.n_bytes < 16 * MIB, "negative control"


@pytest.fixture
def known(world_sae, world_labels, world_templates):
    """What a removal is made from, beside model, latents and names."""
    return {"sae": world_sae, "labels": world_labels, "templates": world_templates, "text": ()}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"train": "lora"}, {"train": "full"}])
def test_a_plan_changes_nothing(world_lm, world_analysis, world_targets, known, settings):
    before = weights_hash(world_lm.model)
    plan = plan_unlearning(world_lm, world_analysis, forget=world_targets[:1], method="npo", **known, **settings)
    assert plan.steps == configure("npo").steps
    assert weights_hash(world_lm.model) == before
    assert not any(p.requires_grad or p.grad is not None for p in world_lm.model.parameters())
    assert (plan.trained < 100_000) == (settings["train"] == "lora")
    with pytest.raises(ConfigError, match="no optimizer steps"):
        plan_unlearning(world_lm, world_analysis, forget=world_targets[:1], method="redirect-closed-form", **known)


@pytest.mark.slow
def test_a_large_run_logs_its_plan_first(world_lm, world_analysis, world_targets, known, tmp_path, monkeypatch, caplog):
    import json

    from unlearn import unlearn

    monkeypatch.setattr(removal_run, "SMALL", 1000)
    monkeypatch.setattr(removal_run, "WORTH_TRYING", 1)
    settings = {"progress": silent, "method": "idk", "steps": 3, "batch_size": 4, "warmup_steps": 1, "lr": 2e-3}
    with caplog.at_level("INFO", "sae_workbench"):
        found = unlearn(world_lm, world_analysis, forget=world_targets[:1], out=tmp_path / "out", **known, **settings)
    first = json.loads((found.run_folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["planned_steps"] == 3 and first["planned_memory_bytes"] > first["planned_weights_bytes"]
    assert "times the weights" in caplog.text
