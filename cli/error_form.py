"""Error messages on the command line: usage errors in the house form, fields named by their options."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.core import ParameterSource

from sae_train.errors import ConfigError, nearest_first
from sae_train.renamed import current_name


def usage_as_input_error(error: click.UsageError) -> ConfigError:
    """Return the same complaint as one of ours; exit code 2 either way.

    Example:
        >>> print(usage_as_input_error(click.UsageError("Got unexpected extra argument (x)")))
        got unexpected extra argument (x)
          try:      wb --help
    """
    path = error.ctx.command_path if error.ctx is not None else "wb"
    try_ = f"{path} --help"
    if isinstance(error, click.NoSuchOption):
        options = _option_names(error.ctx.command) if error.ctx is not None else []
        new = current_name(error.option_name, options)
        return ConfigError(
            f"no option '{error.option_name}' in '{path}'",
            got=error.option_name,
            expected=nearest_first(error.option_name, options),
            try_=try_ if new is None else f"{new}, as it is called now",
        )
    if isinstance(error, click.BadParameter):
        return ConfigError(_message(error), got=_source(error), try_=try_)
    return ConfigError(_message(error), try_=try_)


def option_namer(command: click.Command) -> Callable[[str], str]:
    """Return a function that says how a field or parameter is given to a command; names it does not know stay.

    Example:
        >>> command = click.Command("x", params=[click.Option(["--attack-step", "attack_steps"], multiple=True)])
        >>> option_namer(command)("attack_steps"), option_namer(command)("beta")
        ('--attack-step', 'beta')
    """
    names: dict[str, str] = {}
    for command_ in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
        for option in (p for p in command_.params if isinstance(p, click.Option)):
            flag = next((name for name in option.opts if name.startswith("--")), option.opts[0])
            names |= {name: f"{flag} {name}" for name in getattr(option.type, "names", ()) if name not in names}
            names |= {flag.removeprefix("--").replace("-", "_"): flag, str(option.name): flag}
    return lambda name: names.get(name, name)


def _option_names(command: click.Command) -> list[str]:
    """Return every spelling of a command's options."""
    return [name for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)]


def _message(error: click.UsageError) -> str:
    """Return click's sentence without its capital and full stop."""
    text = error.format_message().rstrip(".")
    return text[:1].lower() + text[1:]


def _source(error: click.BadParameter) -> str | None:
    """Say which configuration file a bad value came from, if it came from one."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return None
    if error.ctx.get_parameter_source(error.param.name) is not ParameterSource.DEFAULT_MAP:
        return None
    return f"{error.param.name} in {error.ctx.params.get('config_path', 'the configuration file')} (--config)"
