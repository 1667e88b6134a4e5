"""LoRA adapters in PEFT's format: attach, measure, save with the identity of the base model, apply again.

    W' = W + (alpha / rank) B A        A (rank, d_in) random, B (d_out, rank) zero: at first nothing changes

Source: Hu et al. 2022 (arXiv:2106.09685), as PEFT implements it. The base model's files are never touched: loading the
base in the place of the adapter's folder is the rollback.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_train.errors import ConfigError, FileFormatError
from sae_train.rng import torch_global_rng
from sae_train.run.runs import partial_path, write_json
from sae_train.run.tensor_files import put_in_folder
from sae_train.text_files import read_json

ADAPTER_CONFIG = "adapter_config.json"  # PEFT's name
BASE = "adapter_base.json"  # ours: which model the adapter belongs to


@dataclass(frozen=True)
class Base:
    """The model an adapter belongs to.

    Attributes:
        spec: What `load_lm` takes.
        weights_hash: Hash of its weights.
    """

    spec: str
    weights_hash: str


@contextmanager
def _peft_quiet() -> Iterator[None]:
    """Keep what PEFT says about its own doings from the user.

    It asks transformers for an attribute under its old name, turns GPT-2's transposed matrices by itself, and looks in
    mixtures of experts for matrices that `all-linear` did not name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"The following \w+_pattern keys", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def attach_adapter(model: nn.Module, *, rank: int, alpha: int, seed: int, modules: Sequence[str] | None = None) -> Any:
    """Put a LoRA adapter on linear layers, in place; only it asks for gradients.

    Args:
        model: The model.
        rank: Of the product of the two matrices.
        alpha: It counts alpha / rank.
        seed: Draws the first of the two.
        modules: Paths of the layers; by default every linear one but the head.

    Returns:
        PEFT's model around `model`.

    Raises:
        ConfigError: PEFT puts none on this architecture.
    """
    import peft

    chosen: Any = "all-linear" if modules is None else [*modules]
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=chosen, task_type="CAUSAL_LM")
    with torch_global_rng("adapter.weights", seed), _peft_quiet():
        try:
            adapter: Any = peft.get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"no adapter can be put on {type(model).__name__}",
                got=f"{str(error).strip().splitlines()[0][:200]}",
                field="train",
                expected="an architecture whose linear layers PEFT takes",
                try_="`train`=full",
            ) from error
    return adapter.eval()


@torch.no_grad()
def adapter_change(model: nn.Module) -> tuple[int, float]:
    """Return how many base weights an adapter changes, and ||B A|| alpha / rank / ||W|| over the layers it is on."""
    moved, size, n_changed = torch.zeros(()), torch.zeros(()), 0
    for module in model.modules():
        if hasattr(module, "lora_B") and hasattr(module, "get_delta_weight"):
            layer: Any = module
            for name in layer.lora_B:
                delta = layer.get_delta_weight(name).float().cpu()
                n_changed += int((delta != 0).sum())
                moved += delta.square().sum()
            # The experts of a mixture are a parameter of their module, not a module with a weight.
            base = layer.get_param() if hasattr(layer, "get_param") else layer.get_base_layer().weight
            size += base.detach().float().square().sum().cpu()
    return n_changed, float((moved / size.clamp_min(1e-30)).sqrt())


def save_adapter(adapter: Any, tokenizer: Any, folder: Path, base: Base) -> None:
    """Write PEFT's two files, the tokenizer and the base's identity, whole or not at all."""
    partial = partial_path(folder)
    shutil.rmtree(partial, ignore_errors=True)
    for config in adapter.peft_config.values():
        config.base_model_name_or_path = base.spec
    # The embedding is not adapted. Left to find that out, PEFT looks for the base on the hub, a world or path included.
    adapter.save_pretrained(partial, safe_serialization=True, save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty form
    tokenizer.save_pretrained(partial)
    write_json(partial / BASE, base)
    put_in_folder(partial, folder)


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter and no model of its own."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def read_base(folder: Path) -> Base:
    """Return the base an adapter belongs to; the hash is empty for an adapter made by another program.

    Raises:
        FileFormatError: The files do not say.
    """
    path = folder / BASE if (folder / BASE).is_file() else folder / ADAPTER_CONFIG
    found = read_json(path, expected="the adapter's base model")
    try:
        return Base(str(found.get("spec") or found["base_model_name_or_path"]), str(found.get("weights_hash", "")))
    except (KeyError, AttributeError) as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="the adapter's base model") from error


def merge_adapter(adapter: Any, *, in_place: bool = False) -> None:
    """Add the adapter to the weights of the model it is on and take it off.

    Args:
        adapter: What `attach_adapter` returned.
        in_place: Write the sums where the weights are, which takes no memory; every model that shares them changes,
            too. By default the sums are tensors of their own.
    """
    adapter.merge_and_unload(safe_merge=not in_place)


def put_on(model: nn.Module, folder: Path) -> None:
    """Load an adapter onto its base and add it to the weights, in place.

    Raises:
        FileFormatError: The files do not fit the model.
    """
    import peft

    try:
        with _peft_quiet():
            adapter: Any = peft.PeftModel.from_pretrained(model, folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        text = str(error).strip().splitlines()
        raise FileFormatError(
            f"cannot load the adapter '{folder}'",
            got=f"{type(error).__name__}: {text[0][:200] if text else ''}",
            expected="adapter_config.json and adapter_model.safetensors in PEFT's format",
        ) from error
    merge_adapter(adapter)
