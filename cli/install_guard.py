"""Refuse to start when another distribution shadows one of the four packages.

The four floors are top-level packages with plain names, so another distribution can install a folder of the
same name over or before one of them. Without this check the first sign would be a puzzling ImportError.
Imports nothing of the workbench.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("cli", "unlearn", "features", "sae_train")


def package_folder(name: str) -> Path | None:
    """Return the folder a package would be imported from, without importing it; None if there is none."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.origin is not None:
        return Path(spec.origin).resolve().parent
    return next((Path(place).resolve() for place in spec.submodule_search_locations or ()), None)


def install_complaint(packages: Iterable[str] = PACKAGES) -> str | None:
    """Return what is wrong with the installation, or None when the packages lie side by side.

    Example:
        >>> install_complaint() is None
        True
    """
    folders = {name: package_folder(name) for name in packages}
    if len({folder.parent if folder else None for folder in folders.values()}) == 1:
        return None
    width = max(len(name) for name in folders) + 1
    found = "\n".join(f"            {name + ':':<{width}} {folder or 'missing'}" for name, folder in folders.items())
    return (
        "another distribution shadows one of wb's packages\n"
        f"  got:\n{found}\n"
        "  expected: all of them in one folder\n"
        "  try:      install sae-workbench in a virtual environment of its own"
    )
