"""SimNPO: NPO without a reference model, its log-probability taken per token.

    forget = -(2 / beta) mean log sigmoid(-(beta / |answer|) log p(answer) - gamma)

Source: Fan et al. 2024, "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning"
(arXiv:2410.07163), equation 4.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unlearn.methods.forgetting import AnswerForgetting, drawn
from unlearn.settings.answers import SimNpoSettings


def simnpo_loss(
    log_probs: Float[Tensor, " batch"], lengths: Float[Tensor, " batch"], beta: float, gamma: float
) -> Float[Tensor, ""]:
    """Return the SimNPO loss."""
    return -2 / beta * F.logsigmoid(-beta * log_probs / lengths - gamma).mean()


class SimNpo(AnswerForgetting):
    """The loss of SimNPO."""

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        settings = self.problem.config.settings
        assert isinstance(settings, SimNpoSettings)
        log_probs, lengths = self.log_probs(drawn(self.examples, self.problem, step))
        return simnpo_loss(log_probs, lengths, settings.beta, settings.gamma)
