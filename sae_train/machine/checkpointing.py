"""Activation checkpointing: blocks keep their input alone, and compute the rest again in the backward pass.

Source: Chen et al. 2016 (arXiv:1604.06174), as torch and transformers implement it. It costs about a forward pass more
a step. Hooks on a block's output see what they always see; a pass without gradients, and one that writes with a cache,
is the usual one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from sae_train.errors import ConfigError


def checkpoint_blocks(model: nn.Module) -> None:
    """Let every block of a model compute its activations again; copies made of the model later do so, too.

    Only the blocks themselves are put into training mode, which is what transformers asks for; what lies inside stays
    in evaluation mode.

    Raises:
        ConfigError: The architecture has no such blocks, or a dropout that training mode would turn on.
    """
    blocks: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    config: Any = getattr(model, "config", None)
    settings = {} if config is None else config.get_text_config().to_dict()
    dropped = [name for name, value in settings.items() if "drop" in name and isinstance(value, float) and value]
    # Older versions of transformers take the cache away from a block in training mode, and answers would be wrong.
    if not blocks or dropped or not hasattr(GradientCheckpointingLayer, "_can_checkpoint_with_cache"):
        raise ConfigError(
            f"activations of {type(model).__name__} cannot be checkpointed",
            got=f"{len(blocks)} blocks that can be, dropout in {', '.join(dropped) or 'no setting'}",
            field="checkpoint_activations",
            expected="an architecture with such blocks, no dropout, and a transformers of 2026",
            try_="a smaller `batch_size` with `accumulate`",
        )
    for block in blocks:
        block.gradient_checkpointing = block.training = block._can_checkpoint_with_cache = True
        block._gradient_checkpointing_func = _again


def keep_activations(model: nn.Module) -> None:
    """Undo `checkpoint_blocks`; nothing where it was not called."""
    for block in model.modules():
        if isinstance(block, GradientCheckpointingLayer):
            block.gradient_checkpointing = block.training = False


def is_checkpointed(model: nn.Module) -> bool:
    """Tell whether blocks of a model compute their activations again."""
    return any(isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing for m in model.modules())


def _again(forward: Callable[..., Any], *args: Any) -> Any:
    """Call a block so that its activations are computed again; as usual where there will be no backward pass."""
    return checkpoint(forward, *args, use_reentrant=False) if torch.is_grad_enabled() else forward(*args)
