"""CRISP: suppress, by fine-tuning, the latents that are salient on the targets.

    salient = the `n_latents` latents with the largest mean(target) - mean(retained), among those at least `ratio` times
              as active on the target as on retained entities
    forget  = mean over tokens of the sum over salient latents of z_j / m        m the same sum on the original model

Source: Ashuach et al. 2025, "CRISP: Persistent Concept Unlearning via Sparse Autoencoders" (arXiv:2508.13650): salience
by difference and ratio, LoRA, activations of retained text kept. Its published code reads the hidden state that enters
a block and feeds it to the SAE of that block's output; here both are the same hook point. Retention is the shared one.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from sae_train.errors import CollapseError
from unlearn.methods.forgetting import ActivationForgetting, ActivationReader, drawn
from unlearn.problem.problem import Problem
from unlearn.settings.activations import CrispSettings

FLOOR = 1e-6  # mean value of a latent that never fires on retained entities


def salient_latents(
    target: Float[Tensor, "n d_sae"], retained: Float[Tensor, "m d_sae"], n_latents: int, ratio: float
) -> Int[Tensor, " n_salient"]:
    """Return the latents that stand out on the target, strongest first; possibly none.

    Example:
        >>> import torch
        >>> salient_latents(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.9, 0.1]]), 2, 3.0).tolist()
        [0, 2]
    """
    here, there = target.mean(0), retained.mean(0)
    gain = (here - there).masked_fill(here < ratio * there.clamp_min(FLOOR), 0.0)
    ranked = gain.topk(min(n_latents, len(gain)))
    return ranked.indices[ranked.values > 0]


def target_latents(
    reader: ActivationReader, n_latents: int, ratio: float
) -> tuple[Int[Tensor, " n_salient"], Float[Tensor, "n d_sae"]]:
    """Return the latents that stand out on a problem's targets, and all latents there.

    Raises:
        CollapseError: None does.
    """
    problem = reader.problem
    target, retained = (
        problem.sae.encode(reader.reference_acts(reader.prompts_of(e)))
        for e in (problem.sets.forget, problem.sets.retain)
    )
    salient = salient_latents(target, retained, n_latents, ratio)
    if len(salient) == 0:
        raise CollapseError(
            f"{problem.config.method} finds no latent that stands out on the targets",
            got=f"none at least {ratio:g} times as active as on retained entities",
            expected="at least one",
            try_="a smaller `ratio`, or another SAE",
        )
    return salient, target


class Crisp(ActivationForgetting):
    """The loss of CRISP."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        settings = problem.config.settings
        assert isinstance(settings, CrispSettings)
        self.salient, target = target_latents(self, settings.n_latents, settings.ratio)
        self.unit = target[:, self.salient].sum(dim=1).mean()

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets."""
        acts = self.acts(self.problem.lm.model, drawn(self.examples, self.problem, step))
        return self.problem.sae.encode(acts)[:, self.salient].sum(dim=1).mean() / self.unit
