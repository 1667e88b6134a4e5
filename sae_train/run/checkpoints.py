"""Checkpoints as safetensors: module, optimizer and counters, written atomically, refused if inputs changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_train.errors import ConfigError, FileFormatError
from sae_train.renamed import recorded_value
from sae_train.run.runs import partial_path

CHECKPOINT = "checkpoint.safetensors"


def state_tensors(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return parameters (and buffers, if given) and optimizer slots as named tensors, ready to be written."""
    found = {f"parameter.{name}": value.detach() for name, value in parameters.items()}
    for index, slot in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slot.items()}
    return found


@torch.no_grad()
def restore(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Put saved tensors back into parameters and optimizer."""
    for name, value in parameters.items():
        value.copy_(tensors[f"parameter.{name}"])
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], *, step: int, identity: Mapping[str, str]) -> None:
    """Write a checkpoint, or nothing.

    Args:
        folder: The run folder.
        tensors: The whole state.
        step: Steps done.
        identity: What the run must be continued with, as text.
    """
    partial = partial_path(folder / CHECKPOINT)
    own = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    save_file(own, partial, metadata={"step": str(step), **identity})
    os.replace(partial, folder / CHECKPOINT)


def load_checkpoint(folder: Path, identity: Mapping[str, str]) -> tuple[dict[str, Tensor], int] | None:
    """Return (state, steps done), or None if there is no checkpoint.

    Raises:
        ConfigError: Something in `identity` has changed since; it is named.
        FileFormatError: The checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    except SafetensorError as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="a checkpoint") from error
    for key, value in identity.items():
        if recorded_value(metadata.get(key)) != recorded_value(value):
            raise ConfigError(
                f"cannot continue '{folder}': the {key} has changed",
                got=value[:300],
                expected=str(metadata.get(key))[:300],
                try_="the same options, or `overwrite` to start again",
            )
    return tensors, int(metadata["step"])
