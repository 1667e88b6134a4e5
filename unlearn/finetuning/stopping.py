"""Early stopping: end the run when targets pass on validation wordings and nothing else has suffered.

Also the place where a removal that never gets there becomes an error with its figures.
"""

from __future__ import annotations

from dataclasses import asdict

from features.entities.templates import Templates
from sae_train.errors import UnreachedError
from sae_train.run.runs import Run
from unlearn.finetuning.validation import Standing, standing
from unlearn.problem.problem import Problem

MAX_RECALL = 0.02  # of the targets
MAX_RANK_FIRST = 0.15
MAX_COST = 0.02  # recall that other known entities may lose


class Stopper:
    """Asks the held-apart wordings; tells whether to stop, and in the end whether the target was reached."""

    def __init__(self, problem: Problem, wordings: Templates, run: Run | None) -> None:
        self.problem, self.wordings, self.run = problem, wordings, run
        self.start = self.last = self._standing()

    def _standing(self) -> Standing:
        """Look at the model as it is."""
        sets = self.problem.sets
        kept = sets.holdout or sets.retain
        return standing(self.problem.lm, sets.forget, kept, [*sets.retain, *sets.holdout], self.wordings)

    def passes(self, step: int) -> bool:
        """Tell whether the run may end after this step."""
        self.last = self._standing()
        if self.run is not None:
            self.run.log(step=step, **{f"validation_{k}": v for k, v in asdict(self.last).items()})
        return self._is_reached()

    def _is_reached(self) -> bool:
        """Compare with the bars; a rank that could not be asked (NaN) does not hold a run up."""
        return (
            self.last.recall <= MAX_RECALL
            and not self.last.rank_first > MAX_RANK_FIRST
            and self.last.kept >= self.start.kept - MAX_COST
        )

    def require_reached(self, steps: int) -> None:
        """End a run that did not pass.

        Raises:
            UnreachedError: The last look did not pass.
        """
        if not self._is_reached() and not self.passes(steps):
            raise UnreachedError(
                f"the targets did not pass within {steps} steps",
                got=f"recall {self.start.recall:.3f} -> {self.last.recall:.3f}, true answer ranked first "
                f"{self.start.rank_first:.3f} -> {self.last.rank_first:.3f}, other entities {self.start.kept:.3f} -> "
                f"{self.last.kept:.3f}",
                expected=f"recall <= {MAX_RECALL}, ranked first <= {MAX_RANK_FIRST}, others down by <= {MAX_COST}",
                try_="more `steps`, another `method`, or no `stop_early`, to keep what was reached",
            )
