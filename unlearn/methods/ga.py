"""Gradient ascent: make the answers about the targets unlikely, with no other objective.

    forget = mean log p(answer | question) per token          (minimised: the loss of the answer rises without bound)

Source: Jang et al. 2023, "Knowledge Unlearning for Mitigating Privacy Risks in Language Models" (arXiv:2210.01504). No
retention there, so its weight is 0 by default; with one it is `graddiff`.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unlearn.methods.forgetting import AnswerForgetting, drawn


def ascent(log_probs: Float[Tensor, " batch"], lengths: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the mean log-probability of an answer's token: what is to fall.

    Example:
        >>> import torch
        >>> ascent(torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 1.0])).item()
        -1.0
    """
    return log_probs.sum() / lengths.sum()


class GradientAscent(AnswerForgetting):
    """The loss of gradient ascent; with a retention weight, that of gradient difference."""

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        return ascent(*self.log_probs(drawn(self.examples, self.problem, step)))
