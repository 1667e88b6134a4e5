"""Logit lens: which tokens a direction of the residual stream makes likelier, read through final norm and unembedding.

Nostalgebraist 2020 applied it to residual streams; for one direction the norm only rescales what it multiplies, so the
order of the tokens is meant, not the numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_train.lm.models import LanguageModel

_NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm")


@torch.no_grad()
def logit_lens(lm: LanguageModel, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
    """Return unembed(norm(direction)) - unembed(norm(0)): what a direction adds to every token's logit, up to scale."""
    model: Any = lm.model
    unembed: nn.Module = model.get_output_embeddings()
    norm = _final_norm(model)
    weight = next(unembed.parameters())
    rows = directions.to(device=weight.device, dtype=weight.dtype)
    zero = torch.zeros_like(rows[:1])
    return (unembed(norm(rows)) - unembed(norm(zero))).float().cpu()


def top_tokens(lm: LanguageModel, logits: Float[Tensor, " vocab"], n: int) -> list[str]:
    """Return the text of the tokens with the largest values, best first, each text once."""
    best = torch.topk(logits, min(4 * n, len(logits))).indices.tolist()
    return list(dict.fromkeys(lm.tokenizer.decode([i]) for i in best))[:n]


def _final_norm(model: Any) -> nn.Module:
    """Return the norm behind the last block; nothing where the architecture has none by a name known here."""
    base = model.base_model
    return next((getattr(base, name) for name in _NORM_NAMES if hasattr(base, name)), nn.Identity())
