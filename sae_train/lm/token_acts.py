"""Activations at chosen tokens of prompts: token ids and positions in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.lm.answering import batches_by_length
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel


@torch.no_grad()
def acts_at(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    hook_points: Sequence[str],
    *,
    batch_size: int = 128,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, list[Float[Tensor, "_ d_in"]]]:
    """Return, by hook point, the activations at some tokens of each prompt, (n_positions, d_in), float32 on the CPU.

    A prompt is run only up to the last token asked for: what comes later cannot change what lies there. Prompts of the
    same length so cut share a forward pass; nothing is padded.

    Args:
        lm: The language model.
        prompts: Token ids.
        positions: Token indices in each prompt, at least one, in any order; rows come in the same order.
        hook_points: Canonical names.
        batch_size: Prompts in a forward pass.
        advance: Called with the number of prompts done.
    """
    upto = [list(ids[: max(where) + 1]) for ids, where in zip(prompts, positions, strict=True)]
    found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(upto) for name in hook_points}
    for batch in batches_by_length([len(ids) for ids in upto], batch_size):
        tokens = torch.tensor([upto[i] for i in batch], device=lm.device)
        acts = capture(lm, tokens, torch.ones_like(tokens), hook_points)
        # Chosen on the device: only the rows asked for are copied to the CPU, in one transfer per hook point.
        at_row = torch.tensor([r for r, i in enumerate(batch) for _ in positions[i]], device=lm.device)
        at_token = torch.tensor([t for i in batch for t in positions[i]], device=lm.device)
        counts = [len(positions[i]) for i in batch]
        for name in hook_points:
            rows = acts[name][at_row, at_token].float().cpu().split(counts)
            for index, own in zip(batch, rows, strict=True):
                found[name][index] = own
        advance(len(batch))
    return found
