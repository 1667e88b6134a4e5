"""Greedy answers while some activations of the prompt are others: causal patching, with the model's own KV cache.

Only the pass over the prompt is edited. Later tokens read the edited keys and values from the cache, so the answers are
those of an edit that is repeated at every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.lm.answering import batches_by_length, cached_forward, end_tokens, has_line_break
from sae_train.lm.architecture_check import architecture_of
from sae_train.lm.generate import encode_prompts, pad_right, token_losses
from sae_train.lm.hooks import capture, replaced
from sae_train.lm.models import LanguageModel


@dataclass(frozen=True)
class Patch:
    """Rows that take the place of activations.

    Attributes:
        hook_point: Where, canonical.
        positions: Token indices per prompt, the beginning-of-sequence token counted.
        rows: What comes there, per prompt, (n_positions, d_in).
    """

    hook_point: str
    positions: Sequence[Sequence[int]]
    rows: Sequence[Float[Tensor, "_ d_in"]]


@contextmanager
def prefill_patched(model: nn.Module, patch: Patch, prompts: Sequence[int]) -> Iterator[None]:
    """Apply a patch to the first forward pass inside, whose batch holds these prompts in this order.

    To every pass, where a model without a cache to go on from reads the prompts again each time.
    """
    sequence = torch.tensor([i for i, p in enumerate(prompts) for _ in patch.positions[p]])
    position = torch.tensor([at for p in prompts for at in patch.positions[p]])
    rows = torch.cat([patch.rows[p] for p in prompts])
    is_done, goes_on = False, architecture_of(model).has_reusable_cache

    def edit(acts: Tensor) -> Tensor:
        nonlocal is_done
        if is_done and goes_on:
            return acts
        is_done = True
        changed = acts.clone()
        changed[sequence.to(acts.device), position.to(acts.device)] = rows.to(acts)
        return changed

    with replaced(model, patch.hook_point, edit):
        yield
    assert is_done, f"no forward pass reached {patch.hook_point}"


@torch.no_grad()
def patched_answers(
    lm: LanguageModel, prompts: Sequence[str], patch: Patch, *, max_new_tokens: int = 12, batch_size: int = 128
) -> list[str]:
    """Return what `greedy_answers` returns while the patch is in place.

    A batch's prompts are read whole, in one pass: what they have in common stays unshared, since it may be patched.
    """
    encoded = encode_prompts(lm, prompts)
    answers = [""] * len(encoded)
    for batch in batches_by_length([len(i) for i in encoded], batch_size):
        tokens = torch.tensor([encoded[i] for i in batch], device=lm.device)
        with prefill_patched(lm.model, patch, batch):
            texts = _greedy(lm, tokens, max_new_tokens)
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers


def _greedy(lm: LanguageModel, tokens: Int[Tensor, "batch pos"], max_new_tokens: int) -> list[str]:
    """Write answers of at most so many tokens, each up to its end token or line break."""
    forward, ends = cached_forward(lm), end_tokens(lm)
    written: list[list[int]] = [[] for _ in tokens]
    is_over = [False] * len(written)
    cache, last = None, tokens
    for _ in range(max_new_tokens):
        logits, cache = forward(last, cache)
        last = logits.argmax(dim=-1, keepdim=True)
        for row, token in enumerate(last[:, 0].tolist()):
            if not is_over[row]:
                written[row].append(token)
                is_over[row] = token in ends or has_line_break(lm.tokenizer.decode([token]))
        if all(is_over):
            break
    return lm.tokenizer.batch_decode(written, skip_special_tokens=True)


def rows_at(
    lm: LanguageModel,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    hook_points: Sequence[str],
    *,
    batch_size: int = 128,
) -> dict[str, list[Float[Tensor, "_ d_in"]]]:
    """Return the activations at some tokens of each prompt (text or token ids), by hook point, float32 on the CPU.

    A prompt is run only up to the last token asked for: what comes later cannot change what lies there.
    """
    texts = [p for p in prompts if isinstance(p, str)]
    encoded = encode_prompts(lm, texts) if texts else [list(p) for p in prompts if not isinstance(p, str)]
    upto = [ids[: max(where) + 1] for ids, where in zip(encoded, positions, strict=True)]
    found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(upto) for name in hook_points}
    for batch in batches_by_length([len(ids) for ids in upto], batch_size):
        tokens = torch.tensor([upto[i] for i in batch], device=lm.device)
        acts = capture(lm, tokens, torch.ones_like(tokens), hook_points)
        for name in hook_points:
            for index, row in zip(batch, acts[name].float().cpu(), strict=True):
                found[name][index] = row[list(positions[index])]
    return found


@torch.no_grad()
def losses_behind(lm: LanguageModel, windows: Sequence[Sequence[int]], patch: Patch, *, batch_size: int = 64) -> float:
    """Return the mean cross-entropy (nats) of the tokens behind each window's first patched one, patch in place."""
    total = count = 0.0
    for start in range(0, len(windows), batch_size):
        batch = range(start, min(start + batch_size, len(windows)))
        ids, mask = pad_right([windows[i] for i in batch], device=lm.device)
        with prefill_patched(lm.model, patch, batch):
            losses, counts = token_losses(lm.model, ids, mask)
        for row, index in enumerate(batch):
            counts[row, : min(patch.positions[index])] = 0.0
        total += float((losses * counts).sum())
        count += float(counts.sum())
    return total / max(1.0, count)
