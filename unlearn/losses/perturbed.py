"""Losses at other weights than the model's own, and the step toward where a loss is largest nearby."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sae_train.errors import ConfigError
from sae_train.machine.checkpointing import is_checkpointed

SMALLEST_NORM = 1e-12  # of a gradient; below it there is no direction


class _Called(nn.Module):
    """Calls a function of a model; a module, so that it can be asked with other weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        """Return what the function says of the model."""
        return function(self.model)


def at_weights(model: nn.Module, weights: Mapping[str, Tensor], function: Callable[[nn.Module], Any]) -> Any:
    """Return a function of a model whose parameters of these names are others; the model stays as it is.

    Raises:
        ConfigError: The model's activations are checkpointed: computed again, they would be those of its own weights.
    """
    if is_checkpointed(model):
        raise ConfigError(
            "this method computes gradients at weights that are not the model's own",
            got="activations that are computed again in the backward pass, when those weights are gone",
            field="checkpoint_activations",
            expected="off, for redirect with its guard and for npo-sam",
            try_="`guard_weight`=0, or a smaller `batch_size` with `accumulate`",
        )
    return functional_call(_Called(model), {f"model.{n}": w for n, w in weights.items()}, (function,))


def ascent_step(loss: Tensor, parameters: Mapping[str, Tensor], radius: float) -> dict[str, Tensor]:
    """Return radius g / ||g||, g the gradient of a loss by all parameters together: SAM's perturbation.

    To first order the weights within this distance at which the loss is largest (Foret et al. 2021, arXiv:2010.01412,
    equation 2).

    Args:
        loss: With its graph.
        parameters: What may move, by name; one without part in the loss stays.
        radius: Length of the step.

    Example:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> ascent_step(w.square().sum() / 2, {"w": w}, 0.5)["w"].tolist()
        [0.30000001192092896, 0.4000000059604645]
    """
    found = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
    moves = {n: g for n, g in zip(parameters, found, strict=True) if g is not None}
    norm = torch.stack([g.float().square().sum() for g in moves.values()]).sum().sqrt().clamp_min(SMALLEST_NORM)
    return {n: radius * g / norm for n, g in moves.items()}
