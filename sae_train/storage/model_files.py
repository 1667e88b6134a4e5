"""What of a language model's folder transformers does not write back: number formats, processor, generation settings.

A model is loaded in the format it is computed in; what is written back has the format that the source is stored in, and
the files beside the weights that a server or `AutoProcessor` needs.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from sae_train.errors import DtypeError
from sae_train.run.runs import write_text
from sae_train.text_files import read_json

GENERATION = "generation_config.json"
SIDE_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    GENERATION,
)
_FORMATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class StoredModel:
    """How a model lies in the folder it was loaded from.

    Attributes:
        source: Folder or hub id.
        dtype: Format of most weights; None where it is none that a model is computed in.
        exceptions: Format of weights that have another one, by their name in the file.
    """

    source: str
    dtype: torch.dtype | None = None
    exceptions: Mapping[str, torch.dtype] = field(default_factory=dict)

    @classmethod
    def read(cls, source: str) -> StoredModel:
        """Read the formats from the heads of the weight files of a model that was loaded just now."""
        found = {name: kind for path in _weight_files(source) for name, kind in _formats(path)}
        counts = Counter(kind for kind in found.values() if kind is not None)
        if not counts:
            return cls(source)
        most = counts.most_common(1)[0][0]
        return cls(source, most, {n: k for n, k in found.items() if k is not None and k != most})

    def dtype_of(self, name: str, value: Tensor) -> torch.dtype:
        """Return the format in which a parameter or buffer is stored; whole numbers stay what they are."""
        if not value.is_floating_point() or self.dtype is None:
            return value.dtype
        return self.exceptions.get(name, self.dtype)

    def cast(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's state in the formats it is stored in; tied tensors stay one."""
        known: dict[tuple[int, torch.Size], Tensor] = {}
        return {
            name: known.setdefault((value.data_ptr(), value.shape), value.to(self.dtype_of(name, value)))
            for name, value in model.state_dict().items()
        }

    @torch.no_grad()
    def round(self, model: nn.Module) -> None:
        """Round every weight, in place, to what will be stored.

        Raises:
            DtypeError: float16 cannot hold a weight.
        """
        for name, value in model.state_dict().items():
            kind = self.dtype_of(name, value)
            if kind == value.dtype or kind == torch.float32:
                continue
            rounded = value.to(kind)
            if not torch.equal(rounded.isfinite(), value.isfinite()):
                raise DtypeError(
                    f"{str(kind).removeprefix('torch.')}, the format of '{self.source}', cannot hold a weight",
                    got=f"{float(value.abs().max()):.4g} in {name}",
                    expected=f"at most {torch.finfo(kind).max:.4g}",
                )
            value.copy_(rounded)

    def complete(self, folder: Path, *, is_same_kind: bool) -> None:
        """Add what transformers did not write: the format to `config.json`, and the files beside the weights.

        Args:
            folder: Where the model was saved.
            is_same_kind: It is of the source's architecture; else its processor does not belong to it.
        """
        if self.dtype is not None:
            path = folder / "config.json"
            config = read_json(path)
            name = str(self.dtype).removeprefix("torch.")
            write_text(path, json.dumps(_with_dtype(config, name), indent=2, sort_keys=True) + "\n")
        for name in SIDE_FILES if is_same_kind else (GENERATION,):
            path = self.file(name)
            if path is not None:
                shutil.copyfile(path, folder / name)

    def file(self, name: str) -> Path | None:
        """Return a file of the source; None where it has none."""
        return _file(self.source, name)


def _with_dtype(config: Any, name: str) -> Any:
    """Return a config in which every part that names a number format names this one."""
    if not isinstance(config, dict):
        return config
    return {k: name if k in ("dtype", "torch_dtype") and v else _with_dtype(v, name) for k, v in config.items()}


def _file(source: str, name: str) -> Path | None:
    """Return a file of a folder or, where it can be had, of a repository on the hub."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
    try:
        found = cached_file(source, name, **quiet)
    except OSError:
        return None
    return None if found is None else Path(found)


def _weight_files(source: str) -> Iterator[Path]:
    """Return the weight files of a model."""
    index = _file(source, "model.safetensors.index.json")
    if index is not None:
        names = sorted(set(read_json(index)["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    yield from filter(None, (_file(source, name) for name in names))


def _formats(path: Path) -> Iterator[tuple[str, torch.dtype | None]]:
    """Return the name and format of every tensor in a file, of which only the head is read."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  not a dict
            yield name, _FORMATS.get(file.get_slice(name).get_dtype())
