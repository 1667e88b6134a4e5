"""Write safetensors files and folders of other libraries with the rights that any new file gets (umask, folder).

safetensors 0.8 writes every file for its owner alone (0600), whatever the umask: a server, or a colleague in the same
group, could not read the weights.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from sae_train.run.runs import partial_path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    partial = partial_path(path)
    mode = _usual_mode(partial)
    try:
        save_file(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))
        partial.chmod(mode)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def put_in_folder(partial: Path, folder: Path) -> None:
    """Let files that another library wrote take their places: `partial` becomes `folder`, or its files go in there."""
    open_up(partial)
    if folder.exists():
        for item in partial.iterdir():
            item.replace(folder / item.name)
        partial.rmdir()
    else:
        partial.replace(folder)


def open_up(folder: Path) -> None:
    """Give every file in a folder that another library wrote the rights that any new file gets there."""
    probe = folder / ".rights"
    mode = _usual_mode(probe)
    probe.unlink()
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _usual_mode(path: Path) -> int:
    """Make an empty file and return its rights: what umask and the folder's own rules leave of them."""
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)
