"""`--config FILE.toml`: options from a file; the command line wins.

A key is the name of an option with dashes or underscores. The values become click's defaults for this call,
so they pass the same conversion and the same checks as words on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click

from cli.field_options import FieldOption
from sae_train.errors import ConfigError, nearest_first
from sae_train.renamed import current_name
from sae_train.text_files import read_toml

NOT_IN_FILES = ("config", "help")


def load_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Make a file's values the defaults of the call `ctx`; a click callback.

    Raises:
        ConfigError: A key names no option of the command, or its value has the wrong shape.
        FileFormatError: The file is not TOML.
    """
    if value is not None:
        options = named_options(ctx.command)
        table = read_toml(value, what="the configuration", expected="TOML: lines of option = value")
        found = {key: check_entry(key, entry, options, value) for key, entry in table.items()}
        ctx.default_map = {**(ctx.default_map or {}), **dict(found.values())}
    return value


def named_options(command: click.Command) -> dict[str, click.Option]:
    """Return a command's options by their long names, underscores for dashes."""
    return {
        name.removeprefix("--").replace("-", "_"): param
        for param in command.params
        if isinstance(param, click.Option)
        for name in param.opts
        if name.startswith("--") and name.removeprefix("--") not in NOT_IN_FILES
    }


def check_entry(key: str, value: Any, options: Mapping[str, click.Option], path: Path) -> tuple[str, Any]:
    """Return (parameter name, value) for one entry of a file; a repeatable option gets a list.

    Raises:
        ConfigError: No option has this name, or the value is a table, or a list where one value belongs.
    """
    option = options.get(key.replace("-", "_"))
    source = f"{key} = {value!r} ({path})"
    if option is None:
        dashed = [name.replace("_", "-") for name in options]
        new = current_name(key, [*dashed, *options])
        try_ = None if new is None else f"{new}, as it is called now"
        expected = nearest_first(key, dashed)
        raise ConfigError(f"unknown key '{key}' in '{path}'", got=source, expected=expected, try_=try_)
    assert option.name is not None, option
    if isinstance(value, dict):
        raise ConfigError(f"'{key}' in '{path}' is a table", got=source, expected=f"{key} = value")
    if not isinstance(option, FieldOption) or option.is_flag:  # a field checks its values itself
        value = _as_typed(key, value, option, source)
    takes_many = option.multiple or option.nargs != 1
    if isinstance(value, list) and not takes_many:
        raise ConfigError(f"'{key}' in '{path}' takes one value", got=source, expected=f"{key} = value")
    if option.multiple and not isinstance(value, list):
        return option.name, [value]
    return option.name, cast(Any, value)


def _as_typed(key: str, value: Any, option: click.Option, source: str) -> Any:
    """Return a value, or each of a list, as one would type it: click's own types read texts, and trip over a date.

    Raises:
        ConfigError: It is true or false where the option takes a value, or the other way round; it is a date, a list
            in a list, or a text that no command line can hold.
    """
    kinds, expected = (bool, "true or false") if option.is_flag else (str | int | float, "a text or a number")
    given = cast("list[Any]", value if isinstance(value, list) else [value])
    words: list[Any] = []
    for one in given:
        is_other = not isinstance(one, kinds) or (isinstance(one, bool) and not option.is_flag)
        if is_other or "\0" in str(one):
            raise ConfigError(f"'{key}' takes {expected}", got=source, expected=f"{key} = {expected}, no NUL in it")
        words.append(one if option.is_flag else str(one))
    return words if isinstance(value, list) else words[0]
