"""Number formats of stored activations: float32, float16, or bfloat16 as uint16 bit patterns."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

STORED_KIND = {"bfloat16": "uint16", "float16": "float16", "float32": "float32"}
STORED_TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def encode_acts(acts: Float[Tensor, "row d_in"], dtype: str) -> np.ndarray:
    """Turn activations into what the file holds."""
    if dtype == "bfloat16":
        return acts.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().view(np.uint16)
    return acts.to(STORED_TORCH[dtype]).cpu().contiguous().numpy()


def as_tensor(stored: np.ndarray, dtype: str) -> Tensor:
    """Return what the file holds as a tensor of the stored type, without a copy."""
    if dtype == "bfloat16":
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(stored)


def decode_acts(stored: np.ndarray, dtype: str) -> Float[Tensor, "row d_in"]:
    """Turn what the file holds into a float32 tensor.

    Example:
        >>> x = torch.tensor([[1.5, -2.0]])
        >>> bool((decode_acts(encode_acts(x, "bfloat16"), "bfloat16") == x).all())
        True
    """
    return as_tensor(np.ascontiguousarray(stored), dtype).float()
