"""Checkpoints as safetensors: module, optimizer and counters, written atomically, refused if inputs changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae_train.errors import FileFormatError
from sae_train.renamed import ADDED, with_current_names
from sae_train.run.resuming import check_unchanged
from sae_train.run.tensor_files import write_tensors

CHECKPOINT = "checkpoint.safetensors"
DERIVED = ("inputs",)  # of an identity: what was drawn by the settings


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
        identity: What the run must be continued with: JSON, or any other text.
    """
    write_tensors(folder / CHECKPOINT, _apart(tensors), {"step": str(step), **identity})


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the host of which no two share memory; only those that do are copied.

    A copy of all of them would be as large as the model and the optimizer's state together.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        found[name] = value
    return found


def load_checkpoint(folder: Path, identity: Mapping[str, str]) -> tuple[dict[str, Tensor], int] | None:
    """Return (state, steps done), or None if there is no checkpoint.

    Raises:
        ConfigError: Something in `identity` has changed since; every key is named with both values.
        FileFormatError: The checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
        step = int(metadata["step"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="a checkpoint") from error
    check_unchanged(folder, {**ADDED, **_parsed(metadata)}, _parsed(identity), derived=DERIVED)
    return tensors, step


def _parsed(identity: Mapping[str, str]) -> dict[str, Any]:
    """Return texts of JSON as what they hold, so that single keys can be compared; a config's fields by their names."""
    found: dict[str, Any] = {}
    for key, text in identity.items():
        try:
            found[key] = with_current_names(json.loads(text))
        except json.JSONDecodeError:
            found[key] = text
    config = found.pop("config", {})
    return {**(config if isinstance(config, dict) else {"config": config}), **found}
