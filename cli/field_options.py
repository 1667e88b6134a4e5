"""Click options generated from config classes: name, type, range, default and help. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import click
from click.core import ParameterSource

from sae_train.errors import ConfigError
from sae_train.fields import MOST, FieldSpec, check_field, described, parsed

METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: ""}


class FieldOption(click.Option):
    """An option that stands for one field of a config class.

    Attributes:
        kind: The config class.
        field: The name of the field in it.
    """

    def __init__(self, *args: Any, kind: type, field: str, **attrs: Any) -> None:
        self.kind, self.field = kind, field
        super().__init__(*args, **attrs)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Show the range beside the default."""
        limits = described(self.kind)[self.field].limits
        return {**super().get_help_extra(ctx), **({"range": limits} if limits else {})}

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Have the field itself check what was given.

        Raises:
            ConfigError: The field refuses it; the error names this option's parameter, and the file it came from.
        """
        try:
            found = super().type_cast_value(ctx, value)
            if found is None:
                return None
            for one in found if self.multiple and not described(self.kind)[self.field].is_many else [found]:
                check_field(self.kind, self.field, one)
        except ConfigError as error:
            assert self.name is not None
            error.field = self.name
            if ctx.get_parameter_source(self.name) is ParameterSource.DEFAULT_MAP:
                error.got = f"{error.got} in {ctx.params['config_path']}"
            raise
        return found


class FieldType(click.ParamType):
    """The type of a field's values, read from a text."""

    def __init__(self, spec: FieldSpec) -> None:
        self.spec = spec
        self.name = "|".join(spec.choices) or METAVARS[spec.type].lower()

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the choices, or the kind of value."""
        return f"[{self.name}]" if self.spec.choices else METAVARS[self.spec.type]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; a text is read, anything else (of a TOML file, a default) is taken as it is.

        Raises:
            ConfigError: The text is no value of this type.
        """
        if not isinstance(value, str):
            is_whole = self.spec.type is float and type(value) is int and abs(value) <= MOST
            return float(value) if is_whole else value
        try:
            return parsed(self.spec.type, value)
        except ValueError:
            field = param.name if param is not None else self.spec.name
            raise ConfigError(f"cannot read '{value}'", got=value, expected=self.spec.rule, field=field) from None


def config_options(
    kind: type,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    names: Mapping[str, str] = {},
    repeatable: Collection[str] = (),
    depends: Mapping[str, str] = {},
    prefix: str = "",
) -> Callable[[Any], Any]:
    """Return a decorator that adds the options of a config class, in the order of its fields.

    Args:
        kind: The config class.
        only: The fields wanted; all by default.
        without: Fields that are given in another way.
        names: Options that are not the field's name with dashes: `{"attack_steps": "--attack-step"}`.
        repeatable: Fields of one value of which several may be given; the command receives a tuple.
        depends: Fields whose default depends on other options, with what the help says in the place of it: the command
            receives None where nothing is given.
        prefix: Put before the names of the parameters that the command receives.
    """
    specs = described(kind)
    chosen = [n for n in specs if (only is None or n in only) and n not in without]
    asked = {*(only or ()), *without, *names, *repeatable, *depends}
    assert asked <= set(specs), f"{asked - set(specs)} are no fields of {kind.__name__}"

    def add(command: Any) -> Any:
        for name in reversed(chosen):
            flag = names.get(name, f"--{prefix}{name}".replace("_", "-"))
            option = _option(kind, specs[name], flag, prefix + name, name in repeatable, depends.get(name))
            command = option(command)
        return command

    return add


def _option(kind: type, spec: FieldSpec, flag: str, name: str, repeats: bool, depends: str | None) -> Any:
    """Return the option of one field."""
    is_flag, multiple = spec.type is bool, repeats or spec.is_many
    default = None if depends or spec.default is dataclasses.MISSING else spec.default
    sentence = spec.sentence + (" Repeatable." if multiple else "")
    return click.option(
        f"{flag}/--no-{flag.removeprefix('--')}" if is_flag else flag,
        name,
        cls=FieldOption,
        kind=kind,
        field=spec.name,
        type=None if is_flag else FieldType(spec),
        multiple=multiple,
        default=(default,) if repeats and default is not None else default,
        show_default=depends or default not in (None, ()),
        help=sentence,
    )
