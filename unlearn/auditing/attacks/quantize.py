"""Quantisation: round weights to 8 and 4 bits. This may undo the small changes that muted an answer.

Round to nearest, symmetric: int8 with one scale per row, int4 with one per 32 weights of a row; simulated in the
model's own dtype (`torch.fake_quantize_per_channel_affine`), so that it runs anywhere.
Source: Zhang et al., ICLR 2025 (4 bits brought back much of what was unlearned).
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from unlearn.auditing.attack_results import AttackResult
from unlearn.auditing.attacks.common import compare, result, with_matrices
from unlearn.auditing.context import AuditContext

SETTINGS = {"int8": (8, None), "int4": (4, 32)}


def rounded(weight: Float[Tensor, "out in"], *, bits: int, group: int | None) -> Float[Tensor, "out in"]:
    """Return the weight as `bits` bits would hold it: w = s round(w / s), s = max |w| / (2^(bits - 1) - 1) of a group.

    Example:
        >>> rounded(torch.tensor([[7.0, 3.4]]), bits=4, group=None)
        tensor([[7., 3.]])
    """
    top = 2 ** (bits - 1) - 1
    whole = weight.shape[1] if group is None or weight.shape[1] % group else group
    rows = weight.detach().float().reshape(-1, whole)
    scale = (rows.abs().amax(dim=1) / top).clamp(min=1e-12)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return (
        torch.fake_quantize_per_channel_affine(rows, scale, zero, 0, -top, top).reshape(weight.shape).to(weight.dtype)
    )


def attack_quantize(context: AuditContext) -> AttackResult:
    """Return recall of the model rounded to 8 and to 4 bits."""
    settings = []
    for name, (bits, group) in SETTINGS.items():
        lm = with_matrices(context.after, partial(rounded, bits=bits, group=group))
        settings.append(compare(context, name, lm))
    return result(settings)
