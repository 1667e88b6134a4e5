"""Gemma Scope's own files: `params.npz` (Lieberum et al. 2024, arXiv:2408.05147).

    pre_acts = x W_enc + b_enc        latents = pre_acts [pre_acts > threshold]        recon = latents W_dec + b_dec

The input is not centred, so b_enc' = b_enc + b_dec W_enc makes it our formula. The file does not say where the SAE
reads. Its embedding SAEs read the embedding before Gemma multiplies it by sqrt(d_model): they do not fit our `embed`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_train.errors import ConfigError, FileFormatError
from sae_train.saes.importers.draft import SaeDraft, jumprelu_threshold, with_input_centred
from sae_train.saes.importers.reading import need_tensors

NAME = "gemma-scope"
LOOKS_LIKE = "an .npz file, or a folder with params.npz"
WEIGHTS = "params.npz"


def matches(source: str) -> bool:
    """Tell whether a path holds one."""
    path = Path(source)
    return (path / WEIGHTS).is_file() or (path.is_file() and path.suffix == ".npz")


def read(source: str, k: int | None) -> SaeDraft:
    """Return the SAE of a file.

    Raises:
        FileFormatError: The file is damaged, holds Python objects, or other arrays.
        ConfigError: `k` is given; a JumpReLU SAE has none.
    """
    if k is not None:
        raise ConfigError("a Gemma Scope SAE has no k", got=k, expected="no `k`", field="k")
    path = Path(source)
    path = path / WEIGHTS if path.is_dir() else path
    arrays = _read_arrays(path)
    scale = arrays.pop("scaling_factor", torch.ones(()))
    if not torch.allclose(scale, torch.ones_like(scale)):
        raise FileFormatError(
            f"'{path}' scales its latents afterwards", got="scaling_factor other than 1", expected="ones, or none"
        )
    need_tensors(arrays, ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"), path)
    arrays["threshold"] = jumprelu_threshold(arrays["threshold"], len(arrays["b_enc"]))
    return with_input_centred(SaeDraft("jumprelu", **arrays))


def _read_arrays(path: Path) -> dict[str, Any]:
    """Read an archive of plain arrays as float32; `w_enc` is another spelling of `W_enc`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        raise FileFormatError(f"cannot read '{path}'", got=str(error), expected="an .npz of plain arrays") from error
    odd = [name for name, a in arrays.items() if a.dtype.kind not in "fiu"]
    if odd:
        raise FileFormatError(f"cannot use '{path}'", got=f"no numbers in {', '.join(odd)}", expected="numbers")
    return {n.replace("w_", "W_", 1): torch.from_numpy(a.astype(np.float32)) for n, a in arrays.items()}
