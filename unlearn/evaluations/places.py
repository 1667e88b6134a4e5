"""Places inside a model where targets are compared with unknown entities, one row per held-out context.

At every audited block: the last token of the name, the mean over the name's tokens, and the last token of the
question. At each SAE's hook point, at the last name token: its latents, and its error term x - x_hat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.prompts import Prompt, contexts
from sae_train.lm.generate import batches_by_length
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel
from sae_train.lm.tokens import bos_prefix, encode_plain, last_token_of_span
from unlearn.context import AuditContext

MAX_CONTEXTS = 4  # per entity
BATCH_SIZE = 64
EMBEDDING = "embed"


@dataclass(frozen=True)
class PlaceRows:
    """Activations of a group at every place.

    Attributes:
        prompts: One per row.
        entity: Key of each row's entity.
        acts: By place, (n_rows, width).
    """

    prompts: list[Prompt]
    entity: np.ndarray
    acts: dict[str, Tensor]


def place_rows(context: AuditContext, group: str, when: str) -> PlaceRows:
    """Run a group's contexts through a model once and cut out every place."""
    prompts = [p for e in context.group(group) for p in contexts(e, context.templates, heldout=True)[:MAX_CONTEXTS]]
    hooks = [s.hook_point for s in context.saes]
    acts = _activations(context.model(when), prompts, list(dict.fromkeys([*context.blocks, *hooks])))
    found: dict[str, Tensor] = {}
    for block in context.blocks:
        last, mean, end = acts[block]
        found |= {block: last, f"{block}, whole name": mean, f"{block}, end of question": end}
    for number, loaded in enumerate(context.saes, start=1):
        x = acts[loaded.hook_point][0]
        with torch.no_grad():
            latents = loaded.sae.encode(x.to(context.after.device)).cpu()
            error = x - loaded.sae.decode(latents.to(context.after.device)).cpu()
        name = f"{loaded.hook_point}, SAE{'' if len(context.saes) == 1 else f' {number}'}"
        found |= {f"{name} latents": latents, f"{name} error": error}
    return PlaceRows(prompts, np.array([p.entity for p in prompts]), found)


def spelling_rows(context: AuditContext, group: str) -> PlaceRows:
    """Return, at one place called `spelling`, the mean of the original's embeddings of a group's name tokens."""
    prompts = [p for e in context.group(group) for p in contexts(e, context.templates, heldout=True)[:MAX_CONTEXTS]]
    _, mean, _ = _activations(context.before, prompts, [EMBEDDING])[EMBEDDING]
    return PlaceRows(prompts, np.array([p.entity for p in prompts]), {"spelling": mean})


@torch.no_grad()
def _activations(
    lm: LanguageModel, prompts: Sequence[Prompt], hook_points: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return by hook point the rows at the last name token, the mean over the name, and the last token."""
    prefix = bos_prefix(lm.tokenizer)
    ids, offsets = encode_plain(lm.tokenizer, [p.text for p in prompts])
    spans = [
        (len(prefix) + _first_token_of_span(o, p.name_start), len(prefix) + last_token_of_span(o, p.name_end))
        for o, p in zip(offsets, prompts, strict=True)
    ]
    rows: dict[str, list[list[Tensor]]] = {h: [[torch.empty(0)] * len(prompts) for _ in range(3)] for h in hook_points}
    for batch in batches_by_length([len(i) for i in ids], BATCH_SIZE):
        tokens = torch.tensor([prefix + ids[i] for i in batch], device=lm.device)
        acts = capture(lm, tokens, torch.ones_like(tokens), hook_points)
        for name in hook_points:
            for index, own in zip(batch, acts[name].float().cpu(), strict=True):
                start, end = spans[index]
                for kind, row in enumerate((own[end], own[start : end + 1].mean(0), own[-1])):
                    rows[name][kind][index] = row
    return {h: (torch.stack(r[0]), torch.stack(r[1]), torch.stack(r[2])) for h, r in rows.items()}


def _first_token_of_span(offsets: Sequence[tuple[int, int]], char_start: int) -> int:
    """Return the index of the first token that reaches behind `char_start`."""
    return next(i for i, (_, end) in enumerate(offsets) if end > char_start)
