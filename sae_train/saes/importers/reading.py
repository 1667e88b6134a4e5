"""What all importers share: JSON beside the weights, tensors by name, where an SAE reads, the config field for k."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_train.errors import ConfigError, FileFormatError, ShapeError
from sae_train.lm.hook_names import canonical_hook_point
from sae_train.run.runs import require_file
from sae_train.text_files import read_json

_OURS = re.compile(r"embed|layers\.\d+(\.(mlp|mlp:in|self_attn))?")


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        MissingFileError: There is no such file.
        FileFormatError: It holds something else.
    """
    require_file(path, what)
    found = read_json(path, expected=f"JSON with {what}")
    if not isinstance(found, dict):
        raise FileFormatError(f"cannot read '{path}'", got=f"a {type(found).__name__}", expected=f"{what}: an object")
    return found


def whole_number(value: object, what: str) -> int:
    """Return a positive whole number out of a file.

    Raises:
        FileFormatError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FileFormatError(f"no usable {what}", got=repr(value), expected="a whole number above zero")
    return value


def need_tensors(tensors: Mapping[str, Tensor], names: Iterable[str], path: Path) -> None:
    """Refuse a set of tensors that is not exactly this one.

    Matrices are called `W_…` or `….weight`; `k` and `threshold` may be one number, everything else is one row.

    Raises:
        FileFormatError: Names are missing or too many.
        ShapeError: One has another number of axes.
    """
    wanted = sorted(names)
    if sorted(tensors) != wanted:
        raise FileFormatError(
            f"'{path}' holds other tensors",
            got=", ".join(sorted(tensors)) or "none",
            expected=", ".join(wanted),
        )
    for name, tensor in tensors.items():
        is_matrix = name.startswith("W_") or name.endswith(".weight")
        axes = (2,) if is_matrix else (0, 1) if name in ("k", "threshold") else (1,)
        if tensor.ndim not in axes:
            got = f"{name} {tuple(tensor.shape)}"
            raise ShapeError(f"'{path}' holds a tensor of another shape", got=got, expected=f"{axes[-1]} axes")


def agreed_k(given: int | None, *found: object) -> int:
    """Return the k on which the option and the places in the source agree; None says nothing.

    Raises:
        ConfigError: Nobody names it, or they differ.

    Example:
        >>> agreed_k(None, None, 32)
        32
    """
    said = {whole_number(k, "k") for k in (given, *found) if k is not None}
    if len(said) != 1:
        raise ConfigError(
            "k is not clear" if said else "the source does not say k",
            got=f"{', '.join(map(str, sorted(said)))} (`k` {given}, the files: {found})" if said else "no k",
            expected="one number",
            try_="`k`=N" if not said else None,
        )
    return said.pop()


def known_hook_point(name: str | None) -> str | None:
    """Return our name of a hook point, or None where it is none of ours.

    Example:
        >>> known_hook_point("blocks.3.hook_mlp_out"), known_hook_point("blocks.3.attn.hook_z")
        ('layers.3.mlp', None)
    """
    canonical = canonical_hook_point(name) if name else ""
    return canonical if _OURS.fullmatch(canonical) else None


def model_of(value: object) -> str | None:
    """Return the name of a language model if there is one."""
    return value if isinstance(value, str) and value else None
