"""Sparse autoencoders: one file and one registry line per architecture."""

from __future__ import annotations

from typing import Any

from sae_train.config import SaeTrainConfig
from sae_train.saes.base import Sae
from sae_train.saes.batch_topk import BatchTopKSae
from sae_train.saes.hierarchical import HierarchicalTopKSae
from sae_train.saes.jumprelu import JumpReluSae
from sae_train.saes.matryoshka import MatryoshkaSae
from sae_train.saes.paired.transcoder import TRANSCODERS, JumpReluTranscoder, ReluTranscoder, TopKTranscoder
from sae_train.saes.relu import ReluSae
from sae_train.saes.topk import TopKSae

ARCHS: dict[str, type[Sae]] = {
    kind.arch: kind for kind in (TopKSae, BatchTopKSae, ReluSae, JumpReluSae, MatryoshkaSae, HierarchicalTopKSae)
}
SAE_ARCHS: dict[str, type[Sae]] = {"topk": TopKSae, "standard": ReluSae, "jumprelu": JumpReluSae}  # to read and import
SAELENS_ARCHS: dict[str, type[Sae]] = {  # to read
    **SAE_ARCHS,
    **{f"topk_{skip}transcoder": TopKTranscoder for skip in ("", "skip_")},  # not SAELens'
    **{f"{skip}transcoder": ReluTranscoder for skip in ("", "skip_")},
    **{f"jumprelu_{skip}transcoder": JumpReluTranscoder for skip in ("", "skip_")},
}


def sae_from_config(config: SaeTrainConfig, d_in: int, d_out: int | None = None) -> Sae:
    """Build the SAE, transcoder or crosscoder a config asks for, with zero weights.

    Args:
        config: What to build.
        d_in: Width of the activations that are read.
        d_out: Width of the second part of a row: where the config names a target, what has to come out; else the other
            model's activations, which makes a crosscoder.

    Raises:
        ConfigError: A setting does not fit the number of latents.
    """
    d_sae = sae_width(config, d_in)
    if config.target_hook_point is None:
        sides = (d_in,) if d_out is None else (d_in, d_out)
        sae = ARCHS[config.arch].from_config(config, sum(sides), d_sae)
        sae.sides = sides
    else:
        sae = TRANSCODERS[config.arch].from_config(config, d_in, d_sae, d_out=d_in if d_out is None else d_out)
    sae.hook_point, sae.target_hook_point = config.hook_point, config.target_hook_point or ""
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
