"""Sparse autoencoders: one file and one registry line per architecture."""

from __future__ import annotations

from typing import Any

from sae_train.config import SaeTrainConfig
from sae_train.saes.base import Sae
from sae_train.saes.batch_topk import BatchTopKSae
from sae_train.saes.jumprelu import JumpReluSae
from sae_train.saes.matryoshka import MatryoshkaSae
from sae_train.saes.relu import ReluSae
from sae_train.saes.topk import TopKSae

ARCHS: dict[str, type[Sae]] = {kind.arch: kind for kind in (TopKSae, BatchTopKSae, ReluSae, JumpReluSae, MatryoshkaSae)}
SAELENS_ARCHS: dict[str, type[Sae]] = {"topk": TopKSae, "standard": ReluSae, "jumprelu": JumpReluSae}  # to read


def sae_from_config(config: SaeTrainConfig, d_in: int) -> Sae:
    """Build the SAE a config asks for, with zero weights.

    Raises:
        ConfigError: A setting does not fit the number of latents.
    """
    sae = ARCHS[config.arch].from_config(config, d_in, sae_width(config, d_in))
    sae.hook_point = config.hook_point
    return sae


def build_sae(arch: str, d_in: int, d_sae: int, **settings: Any) -> Sae:
    """Build an SAE with zero weights from its sizes; `settings` are fields of `SaeTrainConfig`.

    Raises:
        ConfigError: As `sae_from_config`, no such architecture, or a setting is out of range.

    Example:
        >>> build_sae("topk", 4, 16, k=2).W_enc.shape
        torch.Size([4, 16])
    """
    fields: dict[str, Any] = {"hook_point": "", "arch": arch, "d_sae": d_sae, **settings}
    return sae_from_config(SaeTrainConfig(**fields), d_in)


def sae_width(config: SaeTrainConfig, d_in: int) -> int:
    """Return the number of latents a config asks for."""
    return config.d_sae if config.d_sae is not None else config.expansion * d_in
