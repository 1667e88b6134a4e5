"""Config fields declared once: type, default, range and help text; the command line and checks read them.

    @config_class
    class TrainConfig:
        \"\"\"How something is trained.\"\"\"

        lr: Annotated[float, Field(gt=0, description="Step size of Adam.")] = 1e-3

The class is a frozen dataclass (`replace`, `asdict` and `fields` of `dataclasses` work) that checks itself, strictly: a
value of another type is refused, never converted, but for an int where a float belongs. Rules that concern several
fields stand in its `__post_init__`. `described` gives what the command line, `--param`, TOML files and the
documentation need. Imports no torch; pydantic does the checking.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache, wraps
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from sae_train.errors import ConfigError, nearest_first
from sae_train.renamed import current_name

__all__ = [
    "Field",
    "FieldSpec",
    "check_field",
    "config_class",
    "config_of",
    "default_of",
    "described",
    "from_mapping",
    "read_field",
    "require",
]

T = TypeVar("T")
STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
MOST = 2**63 - 1  # what torch, numpy and HDF5 count in
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass_transform(frozen_default=True)
def config_class(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that checks its fields and raises ConfigError, naming the field.

    Example:
        >>> @config_class
        ... class Toy:
        ...     lr: Annotated[float, Field(gt=0, description="Step size.")] = 1e-3
        >>> Toy(lr=0.0)
        Traceback (most recent call last):
        sae_train.errors.ConfigError: lr is out of range
          got:      0.0 (lr)
          expected: a number > 0
    """
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, config=STRICT)
    checked = made.__init__

    @wraps(checked)
    def __init__(self: Any, *args: Any, **given: Any) -> None:
        __tracebackhide__ = True
        try:
            checked(self, *args, **given)
        except ValidationError as error:
            raise _as_config_error(made, error) from None
        for spec in described(made).values():
            _check_size(spec, getattr(self, spec.name))

    made.__init__ = __init__
    return made


def _as_config_error(kind: type, error: ValidationError) -> ConfigError:
    """Return the first complaint as one of ours; a failed assertion of a `__post_init__` stays what it is."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        raise cause
    name = str(first["loc"][0]) if first["loc"] else ""
    fields = described(kind)
    if first["type"] == "unexpected_keyword_argument":
        return unknown_field(kind.__name__, name, fields)
    if first["type"] == "missing":
        return ConfigError(f"{kind.__name__} needs `{name}`", got="nothing", expected=fields[name].rule, field=name)
    return _out_of_range(fields[name], first["input"])


def unknown_field(owner: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a name that is no field of `owner`, the nearest names first."""
    names = list(known)
    new = current_name(name, names)
    return ConfigError(
        f"{owner} has no field '{name}'",
        got=name,
        expected=nearest_first(name, names) or "no fields",
        try_=None if new is None else f"`{new}`, as it is called now",
    )


def _out_of_range(spec: FieldSpec, value: object) -> ConfigError:
    """Return the error for a value that its field refuses."""
    if spec.choices and isinstance(value, str):
        expected = nearest_first(value, spec.choices, most=len(spec.choices))
        return ConfigError(f"no such {spec.name}: '{value}'", got=value, expected=expected, field=spec.name)
    return ConfigError(f"{spec.name} is out of range", got=repr(value), expected=spec.rule, field=spec.name)


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """What a config field accepts and means, for the command line and the documentation.

    Attributes:
        name: The field.
        type: `int`, `float`, `bool` or `str`: of the value, or of each value.
        sentence: What it does, in one sentence that stands alone.
        default: Its default; `dataclasses.MISSING` where it has none.
        choices: The allowed texts, if only some are.
        limits: The allowed range, as in `> 0 and <= 1`; empty where there is none.
        is_optional: Whether None is allowed.
        is_many: Whether it takes any number of values, as a tuple.
    """

    name: str
    type: type
    sentence: str
    default: Any
    choices: tuple[str, ...]
    limits: str
    is_optional: bool
    is_many: bool

    @property
    def rule(self) -> str:
        """Return what is expected, for messages and tables: `a number > 0, or none`."""
        one = ", ".join(self.choices) or f"{WORDS.get(self.type, self.type.__name__)} {self.limits}".strip()
        return ("at least one, each " if self.is_many else "") + one + (", or none" if self.is_optional else "")


@cache
def described(kind: type) -> Mapping[str, FieldSpec]:
    """Return what the fields of a config class take and mean, by name, in the order of the class.

    Example:
        >>> @config_class
        ... class Toy:
        ...     k: Annotated[int | None, Field(ge=1, description="Latents kept per token.")] = None
        >>> described(Toy)["k"].rule
        'a whole number >= 1, or none'
    """
    infos: Mapping[str, FieldInfo] = kind.__pydantic_fields__
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}
    return types.MappingProxyType({name: _spec(name, info, defaults[name]) for name, info in infos.items()})


def _spec(name: str, info: FieldInfo, default: Any) -> FieldSpec:
    """Return the description of one field."""
    kind, metadata = info.annotation, list(info.metadata)
    is_optional = type(None) in get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(arg for arg in get_args(kind) if arg is not type(None))
    is_many = get_origin(kind) is tuple and Ellipsis in get_args(kind)
    if is_many:
        kind, metadata = get_args(kind)[0], []
        if get_origin(kind) is Annotated:
            kind, metadata = kind.__origin__, list(FieldInfo.from_annotation(kind).metadata)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}  # choices that are no Literal
    choices = tuple(get_args(kind) if get_origin(kind) is Literal else map(str, extra.get("choices", ())))  # type: ignore[arg-type]
    base = str if choices else kind if isinstance(kind, type) else tuple
    return FieldSpec(name, base, info.description or "", default, choices, _limits(metadata), is_optional, is_many)


def _limits(metadata: Iterable[Any]) -> str:
    """Return a range as one reads it."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [f"{sign} {getattr(m, key)}" for m in metadata for key, sign in signs.items() if hasattr(m, key)]
    return " and ".join(found)


@cache
def _adapter(kind: type, name: str) -> TypeAdapter:
    """Return the check of one field."""
    return TypeAdapter(get_type_hints(kind, include_extras=True)[name], config=STRICT)


def check_field(kind: type, name: str, value: Any) -> Any:
    """Return a value as its field holds it (a float for an int given as one).

    Raises:
        ConfigError: The field refuses it.
    """
    spec = described(kind)[name]
    try:
        value = _adapter(kind, name).validate_python(value)
    except ValidationError:
        raise _out_of_range(spec, value) from None
    if spec.choices and value not in spec.choices:
        raise _out_of_range(spec, value)
    _check_size(spec, value)
    return value


def _check_size(spec: FieldSpec, value: Any) -> None:
    """Refuse whole numbers that nothing behind a config can count in; Python's own have no end."""
    for one in value if isinstance(value, tuple) else (value,):
        if type(one) is int and abs(one) > MOST:
            raise ConfigError(
                f"{spec.name} is out of range",
                got=f"a number of {one.bit_length()} bits",
                expected=f"{spec.rule}, below 2^63",
                field=spec.name,
            )


def read_field(kind: type, name: str, text: str) -> Any:
    """Read a field's value from a text, as in `NAME=VALUE`; several values stand between commas.

    Raises:
        ConfigError: There is no such field, the text is no value of its type, or it is out of range.

    Example:
        >>> @config_class
        ... class Toy:
        ...     fracs: Annotated[tuple[float, ...], Field(description="Fractions.")] = (1.0,)
        ...     k: Annotated[int | None, Field(ge=1, description="Latents.")] = None
        >>> read_field(Toy, "fracs", "0.5,1"), read_field(Toy, "k", "none")
        ((0.5, 1.0), None)
    """
    fields = described(kind)
    if name not in fields:
        raise unknown_field(kind.__name__, name, fields)
    spec = fields[name]
    if spec.is_optional and text.strip().lower() == "none":
        return None
    try:
        words = text.split(",") if spec.is_many else [text]
        values = [parsed(spec.type, word) for word in words]
    except ValueError:
        raise _out_of_range(spec, text) from None
    return check_field(kind, name, tuple(values) if spec.is_many else values[0])


def parsed(kind: type, text: str) -> Any:
    """Read one value of a type from a text.

    Raises:
        ValueError: The text is none.
    """
    readers: dict[type, Callable[[str], Any]] = {int: int, float: float, bool: _truth, str: str}
    return readers[kind](text.strip())


def _truth(text: str) -> bool:
    """Read a truth value."""
    if text.lower() not in TRUTH:
        raise ValueError(text)
    return TRUTH[text.lower()]


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a config from what a JSON or TOML file holds: lists become tuples.

    Raises:
        ConfigError: A key is not a field of `kind`, or a value is refused.
    """
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def config_of(
    kind: type[T],
    whole: T | None,
    settings: Mapping[str, Any],
    *,
    name: str = "config",
    can_change: bool = False,
    build: Callable[..., T] | None = None,
) -> T:
    """Return the config that a function was given: whole, or by the names of its fields.

    Args:
        kind: The class of the config.
        whole: The config, or None.
        settings: Values by the names of fields.
        name: The parameter that takes it whole, for messages.
        can_change: Whether settings beside a whole config replace its fields; else they exclude each other.
        build: What makes a config of settings where some are no fields of `kind`; by default `kind` itself.

    Raises:
        ConfigError: Both are given and exclude each other, `whole` is of another kind, a setting is refused, or a field
            without a default is missing.

    Example:
        >>> @config_class
        ... class Toy:
        ...     k: Annotated[int, Field(description="Latents kept per token.")] = 8
        ...     seed: Annotated[int, Field(description="Seed of the weights.")] = 0
        >>> config_of(Toy, None, {"seed": 3}), config_of(Toy, Toy(k=4), {"seed": 3}, can_change=True)
        (Toy(k=8, seed=3), Toy(k=4, seed=3))
        >>> config_of(Toy, Toy(k=4), {"seed": 3})
        Traceback (most recent call last):
        sae_train.errors.ConfigError: a whole Toy and single fields of it exclude each other
          got:      config and seed
          expected: either config or its fields
    """
    if whole is None:
        return from_mapping(kind, settings) if build is None else build(**settings)
    if not isinstance(whole, kind):
        raise ConfigError(f"{name} is no {kind.__name__}", got=repr(whole), expected=kind.__name__, field=name)
    if settings and not can_change:
        raise ConfigError(
            f"a whole {kind.__name__} and single fields of it exclude each other",
            got=f"{name} and {', '.join(settings)}",
            expected=f"either {name} or its fields",
        )
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return from_mapping(kind, {f.name: getattr(whole, f.name) for f in fields} | dict(settings)) if settings else whole


def default_of(kind: type, field: str) -> Any:
    """Return a field's default."""
    return described(kind)[field].default


def require(condition: bool, field: str, got: object, expected: str) -> None:
    """Raise ConfigError unless the condition holds: a rule that concerns several fields, or what a run found."""
    if not condition:
        raise ConfigError(f"{field} is out of range", got=got, expected=expected, field=field)
