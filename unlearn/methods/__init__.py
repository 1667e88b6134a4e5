"""Unlearning methods: one file each, one registry.

To add one: a settings class in `unlearn/settings.py`, a file here, a line in either registry. A method either
contributes a loss to the one loop (`Objective`) or edits the weights itself (`WeightEdit`).
"""

from __future__ import annotations

from collections.abc import Callable

from unlearn.finetune import Objective, WeightEdit
from unlearn.methods.redirect import Redirect
from unlearn.methods.redirect_closed_form import RedirectClosedForm
from unlearn.problem import Problem

METHODS: dict[str, Callable[[Problem], Objective | WeightEdit]] = {
    "redirect": Redirect,
    "redirect-closed-form": RedirectClosedForm,
}


def build_method(problem: Problem) -> Objective | WeightEdit:
    """Return the method that the config names, ready for its first step."""
    return METHODS[problem.config.method](problem)
