"""Unlearning methods: one file each, one registry.

To add one: a settings class in `unlearn/settings/`, a file here, a line in either registry. A method either
contributes a loss to the one loop (`Objective`) or edits the weights itself (`WeightEdit`).
"""

from __future__ import annotations

from collections.abc import Callable

from unlearn.finetuning.finetune import Objective, WeightEdit
from unlearn.methods.crisp import Crisp
from unlearn.methods.ga import GradientAscent
from unlearn.methods.graddiff import GradientDifference
from unlearn.methods.idk import RejectTuning
from unlearn.methods.jensun import JensUn
from unlearn.methods.layered import Layered
from unlearn.methods.lunar import Lunar
from unlearn.methods.mean_difference import MeanDifference
from unlearn.methods.npo import Npo
from unlearn.methods.npo_sam import NpoSam
from unlearn.methods.pisces import Pisces
from unlearn.methods.redirect import Redirect
from unlearn.methods.redirect_closed_form import RedirectClosedForm
from unlearn.methods.redirect_natural import RedirectNatural
from unlearn.methods.repselect import RepSelect
from unlearn.methods.rmu import Rmu
from unlearn.methods.simnpo import SimNpo
from unlearn.methods.undial import Undial
from unlearn.problem.problem import Problem

METHODS: dict[str, Callable[[Problem], Objective | WeightEdit]] = {
    "redirect": Redirect,
    "ga": GradientAscent,
    "graddiff": GradientDifference,
    "npo": Npo,
    "npo-sam": NpoSam,
    "simnpo": SimNpo,
    "idk": RejectTuning,
    "layered": Layered,
    "jensun": JensUn,
    "undial": Undial,
    "rmu": Rmu,
    "lunar": Lunar,
    "crisp": Crisp,
    "mean-difference": MeanDifference,
    "redirect-closed-form": RedirectClosedForm,
    "redirect-natural": RedirectNatural,
    "repselect": RepSelect,
    "pisces": Pisces,
}


def build_method(problem: Problem) -> Objective | WeightEdit:
    """Return the method that the config names, ready for its first step."""
    return METHODS[problem.config.method](problem)
