"""Method-specific settings: one frozen config class per method, in one registry. Imports no torch.

A method's class also says where it departs from the defaults that all methods share (`shared`). What it does with
its settings stands in `unlearn/methods/`, in the file of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from sae_train.errors import ConfigError, nearest_first
from sae_train.fields import read_field
from sae_train.renamed import current_name
from unlearn.settings.activations import CrispSettings, LunarSettings, MeanDifferenceSettings, RmuSettings
from unlearn.settings.answers import (
    GaSettings,
    GradDiffSettings,
    IdkSettings,
    JensUnSettings,
    LayeredSettings,
    NpoSamSettings,
    NpoSettings,
    SimNpoSettings,
    UndialSettings,
)
from unlearn.settings.base import MethodSettings
from unlearn.settings.redirection import ClosedFormSettings, NaturalSettings, RedirectSettings
from unlearn.settings.weight_edits import PiscesSettings, RepSelectSettings

METHOD_SETTINGS: dict[str, type[MethodSettings]] = {
    "redirect": RedirectSettings,
    "ga": GaSettings,
    "graddiff": GradDiffSettings,
    "npo": NpoSettings,
    "npo-sam": NpoSamSettings,
    "simnpo": SimNpoSettings,
    "idk": IdkSettings,
    "layered": LayeredSettings,
    "jensun": JensUnSettings,
    "undial": UndialSettings,
    "rmu": RmuSettings,
    "lunar": LunarSettings,
    "crisp": CrispSettings,
    "mean-difference": MeanDifferenceSettings,
    "redirect-closed-form": ClosedFormSettings,
    "redirect-natural": NaturalSettings,
    "repselect": RepSelectSettings,
    "pisces": PiscesSettings,
}


def settings_of(method: str) -> type[MethodSettings]:
    """Return the settings class of a method.

    Raises:
        ConfigError: There is no such method; the nearest names are given.
    """
    if method not in METHOD_SETTINGS:
        raise ConfigError(
            f"no method '{method}'",
            got=method,
            expected=nearest_first(method, METHOD_SETTINGS, most=20),
            field="method",
        )
    return METHOD_SETTINGS[method]


def setting_names(kind: type[MethodSettings]) -> tuple[str, ...]:
    """Return the names of a method's own settings.

    Example:
        >>> setting_names(RedirectSettings)[:2]
        ('latent_weight', 'block_weight')
    """
    return tuple(f.name for f in fields(kind))


def read_params(method: str, params: Sequence[str]) -> dict[str, Any]:
    """Read `NAME=VALUE` words into checked values of the method's settings; their fields say type and range.

    Raises:
        ConfigError: No `=`, a setting the method does not have, or a value of another type or out of range.

    Example:
        >>> read_params("redirect", ["block-weight=2", "sae_error=false"])
        {'block_weight': 2.0, 'sae_error': False}
    """
    kind = settings_of(method)
    found: dict[str, Any] = {}
    for word in params:
        name, sign, text = word.partition("=")
        key = name.strip().replace("-", "_")
        if not sign:
            raise ConfigError(f"not NAME=VALUE: '{word}'", got=word, expected="NAME=VALUE", field="param")
        check_setting(method, key)
        found[key] = read_field(kind, key, text)
    return found


def check_setting(method: str, name: str, shared: Iterable[str] = ()) -> None:
    """Refuse a name that is no setting of the method.

    Args:
        method: Name in the registry.
        name: The setting.
        shared: Fields of all methods, one of which may be meant by a name of earlier versions.

    Raises:
        ConfigError: It is none; the nearest names are given.
    """
    names = setting_names(settings_of(method))
    if name not in names:
        expected = nearest_first(name, names) or "none: this method has no settings of its own"
        new = current_name(name, [*names, *shared])
        try_ = None if new is None else f"{new}, as it is called now"
        raise ConfigError(f"{method} has no setting '{name}'", got=name, expected=expected, try_=try_, field="param")
