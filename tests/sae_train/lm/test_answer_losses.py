"""Losses of answers: packed as padded, to the gradient, with logits behind the answers' tokens alone."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from sae_train.lm.candidates import option_scores
from sae_train.lm.generate import answer_loss, answer_losses, answer_probabilities, continuation_log_probs, logits_at
from sae_train.lm.models import load_lm
from sae_train.lm.module_hooks import edited_input, edited_output
from sae_train.text.packing import can_pack, lay_out

PAIRS = [([3, 4, 5, 6, 7], [8]), ([9, 10], [11, 12, 13]), ([14] * 30, [15, 16]), ([17, 18, 19], [20])]
N_ANSWER_TOKENS = 7
FAMILIES = ("llama", "gpt2", "gemma2", "qwen2", "granite")  # untied, tied, capped logits, biases, scaled logits


@pytest.fixture(params=FAMILIES)
def model(request, tiny_model):
    return tiny_model(request.param).requires_grad_(True)


def test_packed_answers_have_the_losses_and_gradients_of_padded_ones(model):
    assert can_pack(model)
    device, found = torch.device("cpu"), []
    for packed in (True, False):
        model.zero_grad()
        losses, is_answer = answer_losses(model, PAIRS, device, packed=packed)
        answer_loss(model, PAIRS, device, packed=packed).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append(((losses * is_answer).sum(1), is_answer.sum(1), gradients))
    packed, padded = found
    assert packed[1].tolist() == padded[1].tolist() == [1, 3, 2, 1]
    torch.testing.assert_close(packed[0], padded[0], rtol=1e-4, atol=1e-5)
    assert packed[2].keys() == padded[2].keys()
    largest = max(float(g.abs().max()) for g in padded[2].values())
    for name, gradient in packed[2].items():
        torch.testing.assert_close(gradient, padded[2][name], rtol=1e-3, atol=1e-4 * largest, msg=name)


def test_the_unembedding_is_asked_for_the_answers_alone(tiny_llama_dir):
    """And no last token is read: nothing is asked behind it."""
    lm, n_read, n_asked = load_lm(str(tiny_llama_dir), device="cpu"), [], []
    embedding, unembedding = (
        lm.model.get_submodule(p) for p in (lm.architecture.embedding, lm.architecture.unembedding)
    )
    with (
        edited_input(embedding, lambda ids: n_read.append(int((ids > 0).sum()))),
        edited_output(unembedding, lambda logits: n_asked.append(logits[..., 0].numel())),
    ):
        answer_loss(lm.model, PAIRS, lm.device, packed=True)
    assert n_read == [sum(len(question) + len(answer) - 1 for question, answer in PAIRS)]
    assert n_asked == [N_ANSWER_TOKENS]


@pytest.mark.parametrize("packed", [True, False])
def test_logits_at_some_tokens_are_those_of_the_whole_pass(model, packed):
    batch = lay_out([[*q, *a] for q, a in PAIRS], torch.device("cpu"), packed=packed)
    places = batch.places([(2, 31), (0, 0), (1, 4), (0, 5)])
    with torch.no_grad():
        whole = model(**batch.inputs, use_cache=False).logits.float()
        found = logits_at(model, batch, places)
    torch.testing.assert_close(found, places.of(whole), rtol=1e-4, atol=1e-5)


def test_a_model_that_does_not_call_its_unembedding_gives_the_same_logits(tiny_llama_dir, monkeypatch):
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    batch = lay_out([[*q, *a] for q, a in PAIRS], lm.device, packed=True)
    places = batch.places([(0, 2), (3, 1)])
    expected = logits_at(lm.model, batch, places)

    def by_hand(self, **words):
        return SimpleNamespace(logits=F.linear(self.model(**words).last_hidden_state, self.lm_head.weight))

    monkeypatch.setattr(type(lm.model), "forward", by_hand)
    found = logits_at(lm.model, batch, places)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_probability_is_the_geometric_mean_over_the_tokens(tiny_llama_dir):
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    prompts, answers = ["The city of", "Mira Tolvan plays"], [" Velmora", " the lute and nothing else"]
    found = answer_probabilities(lm, prompts, answers)
    for prompt, answer, p in zip(prompts, answers, found, strict=True):
        (score,) = option_scores(lm, [prompt], [[answer.strip()]])
        assert p == pytest.approx(math.exp(score.per_token[0]), rel=1e-4)
        (whole,) = continuation_log_probs(lm, [prompt], [answer])
        assert p ** score.n_tokens[0] == pytest.approx(math.exp(whole), rel=1e-3)
    assert answer_probabilities(lm, [], []) == []
