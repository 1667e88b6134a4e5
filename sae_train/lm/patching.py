"""Activation patching: answers with replaced activations in the prompt, using the model's KV cache.

Only the pass over the prompt is edited. Later tokens read the edited keys and values from the cache, so the answers are
those of an edit that is repeated at every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_train.lm.answering import (
    Decoding,
    Written,
    write_answers,
)
from sae_train.lm.architecture_check import architecture_of
from sae_train.lm.generate import pad_right, token_losses
from sae_train.lm.hooks import replaced
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
    rows: Sequence[Float[Tensor, "_ d_in"]]  # each prompt has its own number of positions


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


def patched_answers(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], patch: Patch, decoding: Decoding
) -> list[Written]:
    """Return what `write_answers` returns behind prompts (token ids) while the patch is in place.

    A batch's prompts are read whole, in one pass: what they have in common stays unshared, since it may be patched.
    """
    return write_answers(lm, prompts, decoding, while_reading=partial(prefill_patched, lm.model, patch))


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
