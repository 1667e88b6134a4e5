"""SAE folders: SAELens' own format (`cfg.json`, `sae_weights.safetensors`), so there is nothing to export."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sae_train.errors import FileFormatError, ShapeError
from sae_train.lm.hook_names import canonical_hook_point, saelens_name
from sae_train.runs import partial_path, require_file, write_json
from sae_train.saes import SAELENS_ARCHS
from sae_train.saes.base import Sae

WEIGHTS = "sae_weights.safetensors"
SAELENS_VERSION = "6.54.12"  # the version whose folder format is written


@dataclass(frozen=True)
class LoadedSae:
    """An SAE in evaluation mode, where it reads, and its `cfg.json`."""

    sae: Sae
    hook_point: str
    folder: Path
    cfg: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return self.folder.name


def save_sae(sae: Sae, folder: Path, *, hook_point: str, metadata: dict[str, Any]) -> None:
    """Write a folder that SAELens' `SAE.load_from_disk` reads; weights first, `cfg.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = partial_path(folder / WEIGHTS)
    save_file({k: v.float().cpu().contiguous() for k, v in sae.saelens_tensors().items()}, partial)
    os.replace(partial, folder / WEIGHTS)
    write_json(
        folder / "cfg.json",
        {
            **sae.saelens_config(),
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {
                "sae_lens_version": SAELENS_VERSION,
                "hook_name": saelens_name(hook_point),
                "hook_point": hook_point,
                "workbench_arch": sae.arch,  # several of ours are one architecture to SAELens
                **metadata,
            },
        },
    )


def load_sae(folder: Path, *, device: torch.device | str = "cpu") -> LoadedSae:
    """Read an SAE folder, ours or SAELens', of a supported architecture.

    Raises:
        MissingFileError: `cfg.json` or the weights are not there.
        FileFormatError: Another architecture, a normalisation that is not folded in, or damaged weights.
        ShapeError: Tensors that do not fit the config.
    """
    cfg = _read_cfg(folder)
    kind = SAELENS_ARCHS.get(str(cfg["architecture"]))
    if kind is None:
        raise FileFormatError(
            f"cannot use the SAE in '{folder}'",
            got=f"architecture {cfg['architecture']}",
            expected=", ".join(SAELENS_ARCHS),
        )
    _require_keys(cfg, kind.saelens_sizes, folder)
    for key, plain in (
        ("normalize_activations", "none"),
        ("apply_b_dec_to_input", True),
        ("reshape_activations", "none"),
        ("rescale_acts_by_decoder_norm", False),
    ):
        if cfg.get(key, plain) != plain:
            raise FileFormatError(
                f"the SAE in '{folder}' changes activations in a way that is not folded in",
                got=f"{key} = {cfg[key]}",
                expected=f"{plain}",
            )
    sae = kind.from_saelens(cfg)
    _load_weights(sae, folder)
    metadata = cfg.get("metadata", {})
    hook_point = metadata.get("hook_point") or canonical_hook_point(str(metadata.get("hook_name", "")))
    sae.requires_grad_(False).eval().to(device)
    return LoadedSae(sae=sae, hook_point=hook_point, folder=folder, cfg=cfg)


def _read_cfg(folder: Path) -> dict[str, Any]:
    """Read and check `cfg.json`."""
    path = require_file(folder / "cfg.json", "an SAE's config", field="sae")
    try:
        cfg = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="JSON") from error
    if not isinstance(cfg, dict):
        raise FileFormatError(f"cannot read '{path}'", got=f"a {type(cfg).__name__}", expected="SAELens' cfg")
    _require_keys(cfg, ("architecture", "d_in", "d_sae"), folder)
    return cfg


def _require_keys(cfg: dict[str, Any], keys: tuple[str, ...], folder: Path) -> None:
    """Refuse a config that lacks one of these keys."""
    missing = sorted(set(keys) - set(cfg))
    if missing:
        raise FileFormatError(
            f"'{folder / 'cfg.json'}' is incomplete", got=f"no {', '.join(missing)}", expected="SAELens' cfg"
        )


def _load_weights(sae: Sae, folder: Path) -> None:
    """Copy the tensors in; names and shapes must be exactly these."""
    path = require_file(folder / WEIGHTS, "an SAE's weights", field="sae")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="safetensors") from error
    wanted = {k: tuple(v.shape) for k, v in sae.saelens_tensors().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    if wanted != found:
        raise ShapeError(f"the weights in '{path}' do not fit cfg.json", got=found, expected=wanted)
    sae.load_saelens_tensors(tensors)
