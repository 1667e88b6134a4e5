"""Unlearning methods: one file each, one registry. Add a file and a line to add one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sae_train.errors import ConfigError, nearest_first
from unlearn.finetune import Objective
from unlearn.methods.redirect import Redirect
from unlearn.problem import Problem

METHODS: dict[str, Callable[[Problem], Objective]] = {"redirect": Redirect}


def build_objective(problem: Problem) -> Objective:
    """Return the objective of the method that the config names.

    Raises:
        ConfigError: There is no such method.
    """
    return METHODS[require_method(problem.config.method, METHODS)](problem)


def require_method(name: str, known: Iterable[str]) -> str:
    """Return the name if it is in the registry.

    Raises:
        ConfigError: It is not; the nearest names are given.
    """
    if name not in known:
        raise ConfigError(f"no method '{name}'", got=f"{name} (--method)", expected=nearest_first(name, known))
    return name
