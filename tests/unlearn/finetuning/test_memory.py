"""What a run holds: no second gradient, no copy for a checkpoint, no second model where an adapter is merged."""

from __future__ import annotations

import pytest
import torch

from sae_train.lm.adapters import attach_adapter, merge_adapter
from sae_train.lm.models import load_lm, weights_hash
from sae_train.run.checkpoints import load_checkpoint, save_checkpoint
from sae_train.run.progress import silent
from unlearn import unlearn
from unlearn.config import configure
from unlearn.finetuning.finetune import LossTerms, TuneState, adamw, trainable_parameters, tune_step


class TwoParts:
    """Two parts that share every parameter."""

    def __init__(self, model):
        self.model = model

    def parts(self, step):
        ids = torch.arange(12).view(2, 6) + step
        return [lambda: self._part(ids, 1.0), lambda: self._part(ids + 3, 0.5)]

    def _part(self, ids, weight):
        logits = self.model(input_ids=ids, use_cache=False).logits
        return LossTerms(weight * logits.logsumexp(-1).mean(), {})


def stepped(folder, mapped, accumulate):
    """Return a model's parameters after two steps."""
    lm = load_lm(str(folder), device="cpu")
    parameters = trainable_parameters(lm.model, "full")
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    state = TuneState(parameters, adamw(parameters.values(), 1e-3), 1e-3)
    for _ in range(2):
        tune_step(state, TwoParts(lm.model), configure("npo", accumulate=accumulate), lm.device, mapped=mapped)
    return parameters


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_added_in_place_are_those_added_apart(tiny_llama_dir, accumulate):
    apart = stepped(tiny_llama_dir, lambda call, parts: map(call, parts), accumulate)  # not the built-in one itself
    in_place = stepped(tiny_llama_dir, map, accumulate)
    assert all(torch.equal(apart[n], in_place[n]) for n in apart)
    start = trainable_parameters(load_lm(str(tiny_llama_dir), device="cpu").model, "full")
    assert not all(torch.equal(start[n], in_place[n]) for n in start), "negative control"


def test_an_adapter_merged_in_place_takes_no_memory_and_gives_the_same_sums(tiny_llama_dir):
    found = {}
    for in_place in (False, True):
        lm = load_lm(str(tiny_llama_dir), device="cpu")
        before = {n: p.data_ptr() for n, p in lm.model.named_parameters()}
        adapter = attach_adapter(lm.model, rank=2, alpha=4, seed=0)
        with torch.no_grad():
            for name, parameter in lm.model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)
        merge_adapter(adapter, in_place=in_place)
        found[in_place] = lm.model.state_dict()
        is_same = [p.data_ptr() == before[n] for n, p in lm.model.named_parameters()]
        assert all(is_same) == in_place
    assert all(torch.equal(found[True][n], found[False][n]) for n in found[True])


def test_a_checkpoint_copies_only_what_shares_memory(tmp_path, monkeypatch):
    whole = torch.arange(6.0)
    tensors = {"a": whole[:3], "b": whole[3:], "c": torch.ones(4), "d": torch.ones(3, 2).T}
    tensors["e"] = tensors["c"]
    written = {}
    monkeypatch.setattr("sae_train.run.checkpoints.write_tensors", lambda _path, own, _words: written.update(own))
    save_checkpoint(tmp_path, tensors, step=1, identity={})
    assert written["c"].data_ptr() == tensors["c"].data_ptr()
    assert len({value.untyped_storage().data_ptr() for value in written.values()}) == len(tensors)
    monkeypatch.undo()
    save_checkpoint(tmp_path, tensors, step=1, identity={})
    loaded = load_checkpoint(tmp_path, {})
    assert loaded is not None
    assert all(torch.equal(loaded[0][name], value) for name, value in tensors.items())


@pytest.mark.slow
def test_only_a_model_that_was_loaded_for_the_run_is_merged_into(
    world_lm, world_analysis, world_targets, world_sae, world_labels, world_templates, tmp_path
):
    """The same model and figures from a path, merged in place, as from an object, which is not merged into."""
    from features.factworld import shipped_world

    known = {"sae": world_sae, "labels": world_labels, "templates": world_templates, "progress": silent}
    settings = {"method": "idk", "steps": 3, "batch_size": 4, "warmup_steps": 1, "lr": 1e-2, "train": "lora"}
    text = ["Some town lies at a river. " * 30] * 12
    before = weights_hash(world_lm.model)
    words = {"forget": world_targets[:1], "text": text, "device": "cpu", **known, **settings}
    of_object = unlearn(world_lm, world_analysis, **words)
    of_path = unlearn(str(shipped_world()), world_analysis, **words)
    assert weights_hash(world_lm.model) == before
    assert weights_hash(of_object.lm.model) == weights_hash(of_path.lm.model) != before
    assert of_object.result["kl"] == of_path.result["kl"] > 0
    assert all(p.grad is None for p in of_path.lm.model.parameters())
