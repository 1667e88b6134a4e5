"""UNDIAL: the model learns from itself, with the logit of every token of an answer lowered.

    forget = mean over the answers' tokens of KL(softmax(z - s e_y) || model)     z the original's logits, y the token

So the answer becomes exp(s) times less likely beside the other tokens, which keep their proportions; the aim is fixed,
and nothing is pushed without end. Source: Dong et al. 2024, "UNDIAL: Self-Distillation with Adjusted Logits for Robust
Unlearning in Large Language Models" (arXiv:2402.10052): cross-entropy, whose gradient is the same, s 3 to 30, no
retention; here it is the shared one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unlearn.losses.divergence import next_token_kl
from unlearn.methods.forgetting import AnswerForgetting, drawn
from unlearn.problem.examples import answer_logits
from unlearn.settings.answers import UndialSettings


def lowered(logits: Float[Tensor, "n vocab"], tokens: Int[Tensor, " n"], strength: float) -> Float[Tensor, "n vocab"]:
    """Return logits of which one a row is smaller.

    Example:
        >>> lowered(torch.zeros(2, 3), torch.tensor([0, 2]), 5.0).tolist()
        [[-5.0, 0.0, 0.0], [0.0, 0.0, -5.0]]
    """
    return logits.scatter_add(-1, tokens[:, None], logits.new_full((len(tokens), 1), -strength))


class Undial(AnswerForgetting):
    """The loss of UNDIAL."""

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        settings, device = self.problem.config.settings, self.problem.lm.device
        assert isinstance(settings, UndialSettings)
        batch = drawn(self.examples, self.problem, step)
        with torch.no_grad():
            aim = lowered(*answer_logits(self.problem.reference, batch, device), settings.strength)
        return next_token_kl(answer_logits(self.problem.lm.model, batch, device)[0], aim)
