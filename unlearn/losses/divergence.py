"""Divergences of next-token distributions: KL, the measure that most losses share, and Jensen-Shannon."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.quality.metrics import kl_divergence


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


def token_js(logits: Float[Tensor, "*tokens vocab"], aim: Float[Tensor, "*tokens vocab"]) -> Float[Tensor, "*tokens"]:
    """Return JS(aim, model) = (KL(aim || m) + KL(model || m)) / 2, m their mean, of the next token, nats; at most ln 2.

    Example:
        >>> apart = torch.tensor([[100.0, 0.0]])
        >>> round(token_js(apart, apart.flip(1)).item(), 4), token_js(apart, apart).item()
        (0.6931, 0.0)
    """
    log_p, log_q = aim.detach().float().log_softmax(dim=-1), logits.float().log_softmax(dim=-1)
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return (kl_divergence(log_p, middle) + kl_divergence(log_q, middle)) / 2


def js_to_token(logits: Float[Tensor, "n vocab"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return JS(one token for sure, model) = ln 2 + (q ln q - (1 + q) ln(1 + q)) / 2, q its probability, nats.

    What `token_js` gives where all of the aim's probability is on one token, without a second distribution.

    Example:
        >>> js_to_token(torch.tensor([[100.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 1])).tolist()
        [0.0, 0.6931471824645996]
    """
    log_q = logits.float().log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
    q = log_q.exp()
    return math.log(2) + (q * log_q - (1 + q) * torch.log1p(q)) / 2
