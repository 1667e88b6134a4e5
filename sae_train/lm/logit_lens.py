"""Logit lens: which tokens a residual-stream direction makes likelier, via final norm and unembedding.

Nostalgebraist 2020 applied it to residual streams; for one direction the norm only rescales what it multiplies, so the
order of the tokens is meant, not the numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.lm.models import LanguageModel


@torch.no_grad()
def logit_lens(lm: LanguageModel, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
    """Return unembed(norm(direction)) - unembed(norm(0)): what a direction adds to every token's logit, up to scale."""
    unembed = lm.model.get_submodule(lm.architecture.unembedding)
    weight = unembedding(lm)
    rows = directions.to(device=weight.device, dtype=weight.dtype)
    zero = torch.zeros_like(rows[:1])
    return (unembed(read_out(lm, rows)) - unembed(read_out(lm, zero))).float().cpu()


@torch.no_grad()
def lens_logits(lm: LanguageModel, acts: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
    """Return the logits that a residual stream would give, were it the last one: final norm, unembedding, its scale.

    A cap on the logits is left out: it changes no order. Behind the last block they are the model's own without it.
    """
    unembed: Any = lm.model.get_submodule(lm.architecture.unembedding)
    table = unembedding(lm)
    logits = read_out(lm, acts.to(table)).float() @ table.float().T
    if getattr(unembed, "bias", None) is not None:
        logits = logits + unembed.bias.float()
    scale = lm.architecture.logit_scale
    return logits if scale == 1.0 else logits * scale


@torch.no_grad()
def final_logits(lm: LanguageModel, acts: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
    """Return the model's own logits from the residual stream behind its last block: `lens_logits`, with the cap."""
    logits, cap = lens_logits(lm, acts), lm.architecture.logit_cap
    return logits if cap is None else cap * torch.tanh(logits / cap)


def read_out(lm: LanguageModel, acts: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_embed"]:
    """Return what the unembedding is given: the residual stream behind the final norm, projected where it has to be."""
    for path in lm.architecture.readout:
        acts = lm.model.get_submodule(path)(acts)
    return acts


def unembedding(lm: LanguageModel) -> Float[Tensor, "vocab d_embed"]:
    """Return the matrix whose rows are multiplied with what `read_out` returns."""
    module: Any = lm.model.get_submodule(lm.architecture.unembedding)
    return module.weight


def top_tokens(lm: LanguageModel, logits: Float[Tensor, " vocab"], n: int) -> list[str]:
    """Return the text of the tokens with the largest values, best first, each text once."""
    best = torch.topk(logits, min(4 * n, len(logits))).indices.tolist()
    return list(dict.fromkeys(lm.tokenizer.decode([i]) for i in best))[:n]
