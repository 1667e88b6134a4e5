"""Activation checkpointing: the same gradients from fewer kept tensors, and answers as before."""

from __future__ import annotations

import copy

import pytest
import torch

from sae_train.errors import ConfigError
from sae_train.lm.hooks import captured, replaced
from sae_train.lm.models import load_lm
from sae_train.machine.checkpointing import checkpoint_blocks, is_checkpointed, keep_activations
from unlearn.losses.perturbed import at_weights

IDS = torch.arange(4, 24).view(2, 10)


@pytest.fixture
def model(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu").model


def gradients(model, shift=None):
    """Return all gradients of a loss on logits and the last activations, and the bytes kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    model.requires_grad_(True)
    own = {p.data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), captured(model, ["layers.1"]) as found:
        if shift is None:
            logits = model(input_ids=IDS, use_cache=False).logits
        else:
            with replaced(model, "layers.0", lambda acts: acts * shift):
                logits = model(input_ids=IDS, use_cache=False).logits
        loss = logits.square().mean() + found["layers.1"].abs().mean()
    loss.backward()
    held = sum(n for place, n in kept.items() if place not in own)
    return {n: p.grad.clone() for n, p in model.named_parameters()}, held


@pytest.mark.parametrize("shift", [None, 0.3])
def test_gradients_are_the_same_and_less_is_kept(model, shift):
    """Also where a block's output is read or replaced by hooks that are gone by the backward pass."""
    again = copy.deepcopy(model)
    checkpoint_blocks(again)
    usual, held = gradients(model, shift)
    found, less = gradients(again, shift)
    assert all(torch.equal(usual[n], found[n]) for n in usual)
    assert less < 0.7 * held


def test_copies_are_checkpointed_and_it_can_be_undone(model):
    checkpoint_blocks(model)
    assert is_checkpointed(copy.deepcopy(model))
    keep_activations(model)
    assert not is_checkpointed(model)
    assert not any(m.training for m in model.modules())


def test_a_pass_with_a_cache_reads_it(model):
    whole = model(input_ids=IDS, use_cache=False).logits[:, -1]
    checkpoint_blocks(model)
    with torch.no_grad():
        front = model(input_ids=IDS[:, :-1], use_cache=True)
        found = model(input_ids=IDS[:, -1:], past_key_values=front.past_key_values, use_cache=True).logits[:, -1]
        alone = model(input_ids=IDS[:, -1:], use_cache=False).logits[:, -1]
    assert torch.allclose(found, whole, atol=1e-5)
    assert not torch.allclose(alone, whole, atol=1e-3), "negative control"


def test_what_cannot_be_computed_again_is_refused(model):
    checkpoint_blocks(model)
    weights = {n: p + 1 for n, p in model.named_parameters()}
    with pytest.raises(ConfigError, match="not the model's own") as refused:
        at_weights(model, weights, lambda own: own(input_ids=IDS).logits)
    assert refused.value.field == "checkpoint_activations"
    keep_activations(model)
    at_weights(model, weights, lambda own: own(input_ids=IDS).logits)
    model.config.attention_dropout = 0.1
    with pytest.raises(ConfigError, match="checkpointed"):
        checkpoint_blocks(model)
    model.config.attention_dropout = 0.0
    with pytest.raises(ConfigError, match="checkpointed"):
        checkpoint_blocks(torch.nn.Sequential())
