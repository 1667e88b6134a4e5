"""RMU: push the targets' activations toward one random direction of large norm.

    forget = mean ||h - c n u||^2 / v      u a random unit vector, fixed; n the mean norm and v the variance of the
                                           original model's activations at the hook point, from the name on

Source: Li et al. 2024, "The WMDP Benchmark" (arXiv:2403.03218), section 4; u = uniform [0, 1) entries, of length one.
There c is an absolute length (6.5 and more); here it counts mean norms, as in Adaptive RMU (Dang et al. 2025,
arXiv:2408.06223), so that one default serves models of any scale. All blocks up to the hook point can change, not only
three of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.rng import torch_rng
from unlearn.methods.forgetting import ActivationForgetting, drawn, variance
from unlearn.problem.problem import Problem
from unlearn.settings.activations import RmuSettings


def misdirection(
    acts: Float[Tensor, "n d_model"], aim: Float[Tensor, " d_model"], variance: float
) -> Float[Tensor, ""]:
    """Return the mean squared distance from the aim, in units of the activations' variance."""
    return (acts - aim).square().sum(dim=1).mean() / variance


class Rmu(ActivationForgetting):
    """The loss of RMU."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        settings = problem.config.settings
        assert isinstance(settings, RmuSettings)
        acts = self.reference_acts(self.examples)
        generator = torch_rng("rmu.direction", problem.config.seed)
        direction = torch.rand(acts.shape[1], generator=generator).to(acts.device)
        self.aim = settings.coefficient * acts.norm(dim=1).mean() * direction / direction.norm()
        self.variance = variance(acts)

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        batch = drawn(self.examples, self.problem, step)
        return misdirection(self.acts(self.problem.lm.model, batch), self.aim, self.variance)
