"""Models of fourteen architectures on a stand-in of a CUDA device (`fixtures_accelerator.py`): as on the CPU."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch

from sae_train.lm import patching
from sae_train.lm.answering import Decoding, write_answers
from sae_train.lm.draws import PerBatch, PerQuestion
from sae_train.lm.generate import answer_loss, encode_prompts
from sae_train.lm.hooks import capture, replaced
from sae_train.lm.logit_lens import logit_lens
from sae_train.lm.models import LanguageModel
from sae_train.lm.patching import Patch, losses_behind, patched_answers, prefill_patched
from sae_train.text.packing import can_pack

ARCHITECTURES = (
    "gpt2",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma3-multimodal",
    "gpt-neox",
    "gptj",
    "gpt-bigcode",
    "phi",
    "phi3",
    "opt",
)
ASKED = ["The city of Velmora lies on", "The city of Karvin", "Where was Mira", "Where was Mira Tolvan born? She was"]
N_WRITTEN = 5


@pytest.fixture
def tiny_lm(tiny_model, toy_tokenizer):
    """Return a function that builds a tiny model of an architecture."""
    return lambda name: LanguageModel(tiny_model(name), toy_tokenizer, f"tiny-{name}", torch.device("cpu"))


def walked(lm: LanguageModel) -> tuple[dict[str, torch.Tensor], list]:
    """Go through all that is done with a model; the numbers, and the answers."""
    prompts = encode_prompts(lm, ASKED)
    last = lm.n_blocks - 1
    batch = torch.tensor([p[:5] for p in prompts], device=lm.device)
    found = capture(lm, batch, None, ["embed", "layers.0", f"layers.{last}"])
    patch = Patch("layers.0", [[1, 3]] * len(prompts), [found["layers.0"][0, [1, 2]] + 3.0] * len(prompts))
    with torch.no_grad():
        with replaced(lm.model, "layers.0", lambda acts: 0.5 * acts):
            found["replaced"] = lm.model(input_ids=batch, use_cache=False).logits
        found["lens"] = logit_lens(lm, found[f"layers.{last}"][:, -1])
    found["behind"] = torch.tensor(losses_behind(lm, prompts, patch))
    decoding = Decoding(N_WRITTEN, samples=2)
    written = [write_answers(lm, prompts, decoding), patched_answers(lm, prompts, patch, decoding)]
    pairs = [(p[:-2], p[-2:]) for p in prompts]
    for packed in (False, True) if can_pack(lm.model) else (False,):
        lm.model.requires_grad_(True)
        loss = answer_loss(lm.model, pairs, lm.device, packed=packed)
        loss.backward()
        found[f"loss, packed: {packed}"] = loss.detach()
        found |= {f"{packed} {n}": p.grad for n, p in lm.model.named_parameters() if p.grad is not None}
        lm.model.zero_grad()
        lm.model.requires_grad_(False)
    return {name: value.cpu() for name, value in found.items()}, written


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hooks_answers_patches_and_gradients_are_those_of_the_cpu(name, tiny_lm, request):
    lm = tiny_lm(name)
    numbers, answers = walked(lm)
    device = request.getfixturevalue("accelerator")
    found, said = walked(device.moved(lm))
    assert said == answers
    device.agree(found, numbers)


# --------------------------------------------------------------------------------------------- waits, planted faults


def waits_of(lm: LanguageModel, device, n_tokens: int, monkeypatch, **words) -> Counter:
    """Count, by line of ours, where the host waits while answers of some length are written."""
    monkeypatch.setattr("sae_train.lm.answering.end_tokens", lambda _lm: set())  # no row leaves
    prompts = [p[:5] for p in encode_prompts(lm, ASKED)]
    if words.pop("patched", False):
        rows = torch.ones(1, lm.d_model, device=lm.device)
        words["while_reading"] = partial(prefill_patched, lm.model, Patch("layers.0", [[2]] * 4, [rows] * 4))
    device.waits.clear()
    write_answers(lm, prompts, Decoding(n_tokens, samples=words.pop("samples")), is_over=lambda _: False, **words)
    return Counter(device.waits)


WRITING = {
    "greedy": {"samples": 0},
    "samples": {"samples": 2},
    "one stream": {"samples": 2, "draws": PerBatch},
    "patched": {"samples": 0, "patched": True},
}


@pytest.mark.parametrize("way", WRITING)
def test_a_token_is_read_once_and_nothing_else_is_waited_for(way, tiny_lm, accelerator, monkeypatch):
    lm = accelerator.moved(tiny_lm("llama"))
    few, many = (waits_of(lm, accelerator, n, monkeypatch, **WRITING[way]) for n in (2, 5))
    more = many - few
    assert sum(more.values()) == 3 and all("tokens.tolist()" in line for line in more), more


def test_a_tensor_made_on_the_host_inside_a_patch_is_found(tiny_lm, accelerator, monkeypatch):
    lm = accelerator.moved(tiny_lm("llama"))
    own = patching.replaced

    def planted(model, hook_point, edit):
        return own(model, hook_point, lambda acts: edit(acts) + torch.zeros(acts.shape[-1]))

    monkeypatch.setattr(patching, "replaced", planted)
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu"):
        waits_of(lm, accelerator, 1, monkeypatch, samples=0, patched=True)


def test_a_value_that_the_host_reads_for_every_token_is_counted(tiny_lm, accelerator, monkeypatch):
    lm = accelerator.moved(tiny_lm("llama"))
    own = PerQuestion.choose

    def choose(self, logits, rows, step):
        return own(self, logits * (1.0 if logits.sum().item() else 2.0), rows, step)

    monkeypatch.setattr(PerQuestion, "choose", choose)
    found = waits_of(lm, accelerator, 4, monkeypatch, samples=0)
    assert sum(n for line, n in found.items() if "logits.sum().item()" in line) == 4
