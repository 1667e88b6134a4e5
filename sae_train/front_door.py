"""Lazy front doors: a package hands out names of its modules and imports each when it is first asked for (PEP 562).

    if TYPE_CHECKING:
        from sae_train.saes.base import Sae

    __all__ = ["Sae"]
    __getattr__, __dir__ = lazy_exports(__name__, {"Sae": "sae_train.saes.base"})

Type checkers read the imports under TYPE_CHECKING and `__all__`, the interpreter reads the mapping; a test compares
them. Imports the standard library only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package that imports its names when they are used.

    Args:
        package: The package's `__name__`.
        modules: The module that defines a name, by the name. Other names are left to the import system.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        return getattr(importlib.import_module(modules[name]), name)

    def __dir__() -> list[str]:
        return sorted(modules)

    return __getattr__, __dir__
