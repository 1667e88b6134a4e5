"""Sparse autoencoders: one file per architecture, one registry. Add a file and a line to add one."""

from __future__ import annotations

from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, nearest_first
from sae_train.saes.base import Sae
from sae_train.saes.relu import ReluSae
from sae_train.saes.topk import TopKSae

ARCHS: dict[str, type[Sae]] = {"topk": TopKSae, "relu": ReluSae}


def build_sae(arch: str, d_in: int, d_sae: int, *, k: int) -> Sae:
    """Build an SAE with zero weights.

    Raises:
        ConfigError: No such architecture, or k does not fit.
    """
    if arch not in ARCHS:
        raise ConfigError(f"no SAE architecture '{arch}'", got=f"{arch} (--arch)", expected=nearest_first(arch, ARCHS))
    return TopKSae(d_in, d_sae, k=k) if arch == "topk" else ARCHS[arch](d_in, d_sae)


def sae_width(config: SaeTrainConfig, d_in: int) -> int:
    """Return the number of latents a config asks for."""
    return config.d_sae if config.d_sae is not None else config.expansion * d_in
