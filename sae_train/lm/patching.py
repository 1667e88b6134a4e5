"""Greedy answers while some activations of the prompt are others: causal patching, with the model's own KV cache.

Only the pass over the prompt is edited. Later tokens read the edited keys and values from the cache, so the answers are
those of an edit that is repeated at every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_train.lm.generate import batches_by_length, encode_prompts, greedy_answers, pad_right, token_losses
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
    rows: Sequence[Float[Tensor, "n_positions d_in"]]


@contextmanager
def prefill_patched(model: nn.Module, patch: Patch, prompts: Sequence[int]) -> Iterator[None]:
    """Apply a patch to the first forward pass inside, whose batch holds these prompts in this order."""
    sequence = torch.tensor([i for i, p in enumerate(prompts) for _ in patch.positions[p]])
    position = torch.tensor([at for p in prompts for at in patch.positions[p]])
    rows = torch.cat([patch.rows[p] for p in prompts])
    is_done = False

    def edit(acts: Tensor) -> Tensor:
        nonlocal is_done
        if is_done:
            return acts
        is_done = True
        changed = acts.clone()
        changed[sequence.to(acts.device), position.to(acts.device)] = rows.to(acts)
        return changed

    with replaced(model, patch.hook_point, edit):
        yield
    assert is_done, f"no forward pass reached {patch.hook_point}"


def patched_answers(
    lm: LanguageModel, prompts: Sequence[str], patch: Patch, *, max_new_tokens: int = 12, batch_size: int = 128
) -> list[str]:
    """Return what `greedy_answers` returns while the patch is in place."""
    answers = [""] * len(prompts)
    for batch in batches_by_length([len(i) for i in encode_prompts(lm, prompts)], batch_size):
        with prefill_patched(lm.model, patch, batch):
            texts = greedy_answers(
                lm, [prompts[i] for i in batch], max_new_tokens=max_new_tokens, batch_size=batch_size
            )
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers


def rows_at(
    lm: LanguageModel,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    hook_points: Sequence[str],
    *,
    batch_size: int = 128,
) -> dict[str, list[Float[Tensor, "n_positions d_in"]]]:
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
            losses, counts = token_losses(lm, ids, mask)
        for row, index in enumerate(batch):
            counts[row, : min(patch.positions[index])] = 0.0
        total += float((losses * counts).sum())
        count += float(counts.sum())
    return total / max(1.0, count)
