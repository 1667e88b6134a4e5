"""Parameter types of the command line: existing paths, models, devices.

What is wrong comes out as one of our errors, with the nearest names, never as click's. The name of a world
(`fact-world`; `sae_train/text/worlds.py`) stands for its part wherever a model, entities or templates are asked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from sae_train.errors import ConfigError, MissingFileError, nearest_first
from sae_train.text.worlds import find_world, install_hint

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class ExistingFile(click.ParamType):
    """A path to a file that is there.

    Args:
        what: What the file holds, as the error message calls it: "labels".
        world_file: Which file of a world its name stands for, if any: `entities` or `templates`.
        may_be_remote: An address (`s3://bucket/acts.h5`) is taken as it is; whoever opens it says whether it is there.
    """

    name = "file"

    def __init__(self, what: str = "data", *, world_file: str | None = None, may_be_remote: bool = False) -> None:
        self.what, self.may_be_remote = what, may_be_remote
        self.world_file = world_file

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """Return the path, or the address.

        Raises:
            MissingFileError: There is no such file.
        """
        if self.may_be_remote and "://" in str(value):
            return str(value)
        world = find_world(str(value)) if self.world_file is not None else None
        path = Path(value) if world is None else getattr(world, self.world_file or "")
        if not path.is_file():
            hint = install_hint(str(value)) if self.world_file is not None else None
            if hint:
                got = f"{value} ({option_name(param)})"
                raise MissingFileError(f"no {self.what} '{value}'", got=got, expected="a file", try_=hint)
            from sae_train.run.runs import require_file  # imports torch, which only a failing call pays for

            require_file(path, self.what, field=param.name if param is not None else None)
        return path


class ExistingFolder(click.ParamType):
    """A path to a folder that is there.

    Args:
        what: What the folder holds, as the error message calls it: "an SAE".
    """

    name = "folder"

    def __init__(self, what: str = "data") -> None:
        self.what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path.

        Raises:
            MissingFileError: There is no such folder.
        """
        path = Path(value)
        if path.is_dir():
            return path
        parent = path.absolute().parent
        names = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        raise MissingFileError(
            f"no folder with {self.what}: '{path}'",
            got=f"{path}{' is a file' if path.is_file() else ''} ({option_name(param)})",
            expected=f"a folder with {self.what}"
            + (f"; nearest: {nearest_first(path.name, names, most=3)}" if names else ""),
        )


class ModelSpec(click.ParamType):
    """A language model, as `load_lm` takes it: hub id, Hugging Face folder, `.gguf` file, or the name of a world."""

    name = "model"


class Device(click.ParamType):
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; whether this machine has it is decided when it is used."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word.

        Raises:
            ConfigError: It names no kind of device.
        """
        if not _DEVICE.fullmatch(str(value)):
            raise ConfigError(
                f"no such device '{value}'",
                got=f"{value} ({option_name(param)})",
                expected="auto, cpu, cuda, cuda:N, mps",
            )
        return str(value)


def option_name(param: click.Parameter | None) -> str:
    """Return the option as one types it, for messages."""
    if param is None:
        return "path"
    return next((name for name in param.opts if name.startswith("--")), param.human_readable_name)
