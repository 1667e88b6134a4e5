"""NPO+SAM: negative preference optimisation that is to hold also where relearning would go first.

    forget = NPO(W + d),   d = rho g / ||g||,   g = dNPO / dW          (W's gradient is that of NPO at W + d)

NPO is large where the answers are likely, so d is the short step by which a relearner brings most of them back. The
retention stays at W. d is that of each batch by itself: batches that are accumulated or lie in other processes have
their own.

Source: Fan et al. 2025, "Towards LLM Unlearning Resilient to Relearning Attacks: A Sharpness-Aware Minimization
Perspective and Beyond" (arXiv:2502.05374); rho 0.01 there.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from unlearn.losses.perturbed import ascent_step, at_weights
from unlearn.methods.forgetting import AnswerForgetting, drawn
from unlearn.methods.npo import npo_loss
from unlearn.problem.examples import Answered, answer_log_probs
from unlearn.settings.answers import NpoSamSettings


class NpoSam(AnswerForgetting):
    """The loss of NPO+SAM."""

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets, at the perturbed weights."""
        settings, model = self.problem.config.settings, self.problem.lm.model
        assert isinstance(settings, NpoSamSettings)
        batch = drawn(self.examples, self.problem, step)
        reference = self.reference_log_probs(batch)

        def loss(of: nn.Module) -> Tensor:
            return npo_loss(self._log_probs(of, batch), reference, settings.beta)

        own = {n: p for n, p in model.named_parameters() if p.requires_grad}
        away = ascent_step(loss(model), own, settings.rho)
        # The perturbation is a constant: SAM leaves out how it would change with the weights.
        return at_weights(model, {n: own[n] + d.detach() for n, d in away.items()}, loss)

    def _log_probs(self, model: nn.Module, batch: Sequence[Answered]) -> Float[Tensor, " batch"]:
        """Return log p(answer | question) of a model."""
        return answer_log_probs(model, batch, self.problem.lm.device)[0]
