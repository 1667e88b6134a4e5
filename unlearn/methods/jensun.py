"""JensUn: Jensen-Shannon divergence to a refusal on the targets, and to the original model on everything else.

    forget = mean over the answers' tokens of JS(r_t, model)      r_t all on the refusal's token, which begins anew as
                                                                  often as the answer is longer
    retain = mean over retained tokens of JS(original, model)     in the place of KL and activation distance

JS is at most ln 2, and its gradient vanishes where the model is sure of something else: no answer is pushed without
end, and none that is retained weighs more than it can. The true answer stands in front of a token, as in training.
Source: Singh et al. 2025, "Unlearning That Lasts: Utility-Preserving, Robust, and Almost Irreversible Forgetting in
LLMs" (arXiv:2509.02820), where the refusal is "No idea"; here it is the one that the model gives about unknown
entities.
"""

from __future__ import annotations

from itertools import cycle, islice

import torch
from jaxtyping import Float
from torch import Tensor

from unlearn.losses.divergence import js_to_token, token_js
from unlearn.losses.retention import Retention
from unlearn.methods.forgetting import AnswerForgetting, drawn
from unlearn.problem.examples import answer_logits, refused_answers
from unlearn.problem.problem import Problem


class JensUn(AnswerForgetting):
    """The loss of JensUn."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.refusal = refused_answers(problem.lm, problem.sets, problem.templates)[0].answer

    def retain(self, problem: Problem) -> Retention:
        """Return the retention by Jensen-Shannon divergence alone."""
        return Retention(problem, divergence=token_js, with_activations=False)

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        batch, device = drawn(self.examples, self.problem, step), self.problem.lm.device
        logits, _ = answer_logits(self.problem.lm.model, batch, device)
        aims = [token for a in batch for token in islice(cycle(self.refusal), len(a.answer))]
        return js_to_token(logits, torch.tensor(aims, device=device)).mean()
