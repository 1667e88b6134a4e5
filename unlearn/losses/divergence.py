"""KL divergence of next-token distributions: the one measure that all losses share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def token_kl(logits: Float[Tensor, "*tokens vocab"], aim: Float[Tensor, "*tokens vocab"]) -> Float[Tensor, "*tokens"]:
    """Return KL(aim || model) of the next token after each token, nats; no gradient reaches the aim.

    As cross-entropy less the aim's entropy, which with its gradient takes less time on CPU than `F.kl_div`.

    Example:
        >>> aim = torch.tensor([[0.5, 0.5]]).log()
        >>> round(token_kl(torch.tensor([[0.25, 0.75]]).log(), aim).item(), 4)  # ln(2 / sqrt(3))
        0.1438
    """
    with torch.no_grad():
        log_p = F.log_softmax(aim.float(), dim=-1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(dim=-1)
    crossed = F.cross_entropy(logits.float().flatten(0, -2), p.flatten(0, -2), reduction="none")
    return crossed.view_as(entropy) - entropy


def next_token_kl(logits: Float[Tensor, "n vocab"], aim: Float[Tensor, "n vocab"]) -> Float[Tensor, ""]:
    """Return the mean of `token_kl` over tokens."""
    return token_kl(logits, aim).mean()
