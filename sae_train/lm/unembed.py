"""The final norm and the unembedding of a model, whatever the architecture calls them."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")


def final_norm(model: nn.Module) -> nn.Module | None:
    """Return the norm in front of the unembedding; None where none is found under a usual name."""
    base: Any = model.base_model
    for owner in (base, getattr(base, "decoder", None), getattr(base, "model", None)):
        for name in _NORMS:
            if isinstance(getattr(owner, name, None), nn.Module):
                return getattr(owner, name)
    return None


def unembedding(model: nn.Module) -> Float[Tensor, "n_vocab d_model"]:
    """Return the matrix whose rows are multiplied with the normed activation."""
    owner: Any = model
    return owner.get_output_embeddings().weight
