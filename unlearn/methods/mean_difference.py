"""Mean difference: shift the targets' activations by mean(unknown) - mean(known).

    d = mean of h over unknown entities - mean of h over known ones       (original model, raw residual stream, no SAE)
    forget = mean ||h - (h_ref + scale d)||^2 / v                           from the last name token on

The control of the SAE: if it does as well, the SAE adds nothing. Source: difference of means as a direction is Marks &
Tegmark 2024, "The Geometry of Truth" (arXiv:2310.06824); training towards it is this project's own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unlearn.methods.forgetting import ActivationForgetting, drawn, variance
from unlearn.methods.lunar import shift_distance
from unlearn.problem.problem import Problem
from unlearn.settings.activations import MeanDifferenceSettings


class MeanDifference(ActivationForgetting):
    """The loss of the mean difference."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        settings = problem.config.settings
        assert isinstance(settings, MeanDifferenceSettings)
        known = self.reference_acts(self.prompts_of(problem.sets.retain))
        unknown = self.reference_acts(self.prompts_of(problem.sets.unknown))
        self.shift, self.unit = settings.scale * (unknown.mean(0) - known.mean(0)), variance(unknown)

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        batch = drawn(self.examples, self.problem, step)
        with torch.no_grad():
            reference = self.acts(self.problem.reference, batch)
        return shift_distance(self.acts(self.problem.lm.model, batch), reference, self.shift, self.unit)
