"""An output that may be replaced is none of the inputs: writing it would destroy what is read. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sae_train.errors import ConfigError

OUTPUTS = ("out", "html", "acts_out")


def refuse_own_input(given: Mapping[str, object]) -> None:
    """Refuse, where outputs may be replaced, one that is an input or a folder around one.

    Args:
        given: The parameters of a command; those that name something on the disk are inputs.

    Raises:
        ConfigError: An output is an input.
    """
    outputs = [name for name in OUTPUTS if isinstance(given.get(name), Path)]
    inputs = {name: value for name, value in given.items() if name not in (*OUTPUTS, "config_path")}
    for out in outputs if given.get("overwrite") else ():
        goal = os.path.realpath(Path(str(given[out])))
        for name, values in inputs.items():
            for value in values if isinstance(values, tuple | list) else (values,):
                if isinstance(value, str | Path) and os.path.exists(value) and _is_in(os.path.realpath(value), goal):
                    raise ConfigError(
                        f"the output would take the place of what is read: '{given[out]}'",
                        got=f"{value} (`{name}`)",
                        field=out,
                        expected="another path",
                    )


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
