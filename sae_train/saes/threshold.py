"""Base of SAEs with thresholds: pre-activations above their threshold are kept. SAELens calls it `jumprelu`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_train.saes.base import Sae


class ThresholdSae(Sae):
    """Keeps the latents above their thresholds, whatever else is in the batch."""

    @abstractmethod
    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """Return every latent's threshold, none below zero, in the scale of the weights."""

    def activate(self, pre_acts: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        """Keep what is above its threshold, zero the others."""
        return torch.where(pre_acts > self.thresholds(), pre_acts, 0.0)

    def saelens_config(self) -> dict[str, Any]:
        """Return SAELens' fields for `jumprelu`."""
        return {"architecture": "jumprelu"}

    def saelens_tensors(self) -> dict[str, Tensor]:
        """Return the weights and `threshold`, one number per latent."""
        return {**super().saelens_tensors(), "threshold": self.thresholds().detach()}
