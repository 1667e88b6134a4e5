"""Reject-tuning: train the answers about targets to be those about unknown entities.

    forget = -mean log p(refusal | question) per token

The refusal is the commonest one among the model's own answers about unknown entities.

Source: the "I don't know" baseline of TOFU (Maini et al. 2024, arXiv:2401.06121); RWKU calls it reject-tuning.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unlearn.methods.forgetting import ForgetRetain, drawn
from unlearn.methods.ga import ascent
from unlearn.problem.examples import answer_log_probs, refused_answers
from unlearn.problem.problem import Problem


class RejectTuning(ForgetRetain):
    """The loss of reject-tuning."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.examples = refused_answers(problem.lm, problem.sets, problem.templates)

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        batch = drawn(self.examples, self.problem, step)
        return -ascent(*answer_log_probs(self.problem.lm.model, batch, self.problem.lm.device))
