"""Activations at names: language model + prompts -> one row per prompt and hook point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from features.prompts import Prompt
from sae_train.lm.generate import batches_by_length
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel
from sae_train.lm.tokens import bos_prefix, encode_plain, last_token_of_span


def name_token_index(lm: LanguageModel, prompts: Sequence[Prompt]) -> tuple[list[list[int]], list[int]]:
    """Tokenize prompts and find the last token of each name.

    Returns:
        Token ids behind the prefix token, and the index of the last name token in them.
    """
    prefix = bos_prefix(lm.tokenizer)
    ids, offsets = encode_plain(lm.tokenizer, [p.text for p in prompts]) if prompts else ([], [])
    where = [last_token_of_span(o, p.name_end) + len(prefix) for o, p in zip(offsets, prompts, strict=True)]
    return [prefix + i for i in ids], where


@torch.no_grad()
def name_activations(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    hook_points: Sequence[str],
    *,
    batch_size: int = 128,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Float[Tensor, "n_prompts d_in"]]:
    """Return the activations at the last token of each name, float32 on the CPU.

    A prompt is run only up to its name: what comes later cannot change what lies there.
    """
    ids, where = name_token_index(lm, prompts)
    upto = [i[: w + 1] for i, w in zip(ids, where, strict=True)]
    rows: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(upto) for name in hook_points}
    for batch in batches_by_length([len(i) for i in upto], batch_size):
        tokens = torch.tensor([upto[i] for i in batch], device=lm.device)
        acts = capture(lm, tokens, torch.ones_like(tokens), hook_points)
        for name in hook_points:
            for index, row in zip(batch, acts[name][:, -1].float().cpu(), strict=True):
                rows[name][index] = row
        advance(len(batch))
    return {name: torch.stack(found) if found else torch.empty(0, lm.d_model) for name, found in rows.items()}
