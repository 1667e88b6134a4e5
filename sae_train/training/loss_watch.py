"""Stop a training run that diverged: NaN, an exploding loss, or only dead latents.

The error of the reconstruction is 1 where an SAE is no better than the mean (FVU), or than zero (squared error per
dimension). It explodes when it is above 1 and above `EXPLODES` times its median over the last `REMEMBERED` looks; the
first look is at the first step. Sparsity terms are left out, since they grow on purpose in the warm-up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from sae_train.errors import NumericalError

EXPLODES = 10.0
REMEMBERED = 9
ERROR_TERMS = ("fvu", "mse")  # what the error of the reconstruction is called


def require_finite(values: Mapping[str, float], step: int, *, what: str, expected: str = "finite losses") -> None:
    """Refuse the terms of a step's loss where one of them is NaN or infinite.

    Raises:
        NumericalError: So it is.
    """
    if not all(map(math.isfinite, values.values())):
        raise NumericalError(
            f"{what} diverged at step {step}", got=_shown(values), expected=expected, try_="a smaller `lr`"
        )


def _shown(values: Mapping[str, float]) -> str:
    """Return the terms of a loss for a message."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


class LossWatch:
    """Looks at the losses of one run, in the order of its steps.

    Args:
        out: The run folder, for the messages.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._errors: deque[float] = deque(maxlen=REMEMBERED)

    def check(self, values: Mapping[str, float], step: int) -> None:
        """Look at the terms of a step's loss.

        Raises:
            NumericalError: They are not finite, explode, or all latents are dead.
        """
        stays = f"the last checkpoint in {self.out} stays"
        require_finite(values, step, what="training", expected=f"finite losses; {stays}")
        error = next(values[name] for name in ERROR_TERMS if name in values)
        if self._errors and error > (limit := max(1.0, EXPLODES * median(self._errors))):
            raise NumericalError(
                f"the loss explodes at step {step}",
                got=_shown(values),
                expected=f"an error of at most {limit:.4g}, {EXPLODES:g} times its running median, or 1; {stays}",
                try_="a smaller `lr`",
            )
        self._errors.append(error)
        if values["frac_dead"] > 1 - 1e-6:  # a sum over processes
            raise NumericalError(
                f"all latents are dead at step {step}",
                got=_shown(values),
                expected=f"latents that fire; {stays}",
                try_="a smaller `lr` or `l1_coefficient`, or a larger `dead_after_tokens`",
            )

    def check_weights(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Stop before NaN or Inf replaces a good checkpoint; losses are only looked at now and then.

        Raises:
            NumericalError: A weight is not finite.
        """
        bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
        if bad:
            raise NumericalError(
                f"training diverged before step {step}",
                got=f"NaN or Inf in {', '.join(bad)}",
                expected=f"finite weights; the last checkpoint in {self.out} stays",
                try_="a smaller `lr`",
            )
