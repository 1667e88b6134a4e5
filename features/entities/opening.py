"""Open what a station is given: objects or paths become objects; configs come whole or by their fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from features.entities.templates import Templates, load_templates
from sae_train.activations.store import ActivationStore
from sae_train.errors import ConfigError
from sae_train.fields import from_mapping
from sae_train.run.runs import resolve_device
from sae_train.saes.base import Sae
from sae_train.saes.interop import load_sae

T = TypeVar("T")


def open_templates(given: Templates | str | Path) -> Templates:
    """Return templates, or read them from a file or the world of a name."""
    return given if isinstance(given, Templates) else load_templates(given)


def open_saes(given: Sae | str | Path | Sequence[Sae | str | Path], *, device: Any = "auto") -> list[Sae]:
    """Return SAEs, or read them from their folders onto a device.

    Raises:
        ConfigError: There is none.
    """
    several = [given] if isinstance(given, Sae | str | Path) else list(given)
    if not several:
        raise ConfigError("no SAE to look into", got="none", field="saes", expected="one or more, objects or folders")
    where = resolve_device(str(device))
    return [s if isinstance(s, Sae) else load_sae(Path(s), device=where) for s in several]


@contextmanager
def open_store(given: ActivationStore | str | Path | None) -> Iterator[ActivationStore | None]:
    """Open an activation store and close it again; one that is open already stays so."""
    if given is None or isinstance(given, ActivationStore):
        yield given
        return
    with ActivationStore(Path(given)) as store:
        yield store


def settled(kind: type[T], whole: T | None, fields: Mapping[str, Any], *, name: str) -> T:
    """Return a config that is given whole or by its fields.

    Args:
        kind: The class of the config.
        whole: The config, or None.
        fields: Values by the names of its fields.
        name: The parameter that takes it whole, for messages.

    Raises:
        ConfigError: Both are given, or a name is no field of it.
    """
    if whole is None:
        return from_mapping(kind, fields)
    if fields:
        raise ConfigError(
            f"a {kind.__name__} is given whole and by its fields",
            got=f"{name} and {', '.join(fields)}",
            expected=f"either {name} or its fields",
        )
    return whole
