"""Negative preference optimisation: gradient ascent that saturates once an answer is unlikely enough.

    forget = -(2 / beta) mean log sigmoid(-beta (log p(answer) - log p_ref(answer)))

The sums run over the answer's tokens. For beta -> 0 it is gradient ascent.

Source: Zhang et al. 2024, "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning"
(arXiv:2404.05868), equation 3; beta 0.1 there.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unlearn.methods.forgetting import AnswerForgetting, drawn
from unlearn.settings.answers import NpoSettings


def npo_loss(log_probs: Float[Tensor, " batch"], reference: Float[Tensor, " batch"], beta: float) -> Float[Tensor, ""]:
    """Return the NPO loss; (2 / beta) log 2 where the model is the reference, 0 where answers are impossible."""
    return -2 / beta * F.logsigmoid(-beta * (log_probs - reference)).mean()


class Npo(AnswerForgetting):
    """The loss of NPO."""

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        settings = self.problem.config.settings
        assert isinstance(settings, NpoSettings)
        batch = drawn(self.examples, self.problem, step)
        log_probs, _ = self.log_probs(batch)
        return npo_loss(log_probs, self.reference_log_probs(batch), settings.beta)
