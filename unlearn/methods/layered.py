"""Layered unlearning: fold after fold, each stage unlearns one more and keeps those that are still to come.

    stage i of k:   forget = NPO on the facts of folds 1 to i          the steps are shared out evenly among the stages
                    keep   = retention loss on those of folds i + 1 to k, as the original has them

At each stage the model has to tell what is forgotten from facts of the same kind that are not, so that every fold is
held back by something of its own: lessons about one fold, which undo one of these, do not bring back the others. Folds
are made of facts, not of entities: an attacker who knows some facts of a target is the one to be kept from the rest.
With one fold it is NPO. A KL budget that is spent at an early stage leaves the later folds known.

Source: Qian et al. 2025, "Layered Unlearning for Adversarial Relearning" (arXiv:2505.09500), which unlearns folds of
questions in runs of their own; here one schedule of the step size goes through all stages.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from sae_train.rng import rng
from unlearn.finetuning.finetune import Part
from unlearn.losses.retention import draw
from unlearn.methods.forgetting import AnswerForgetting, drawn, part
from unlearn.methods.npo import npo_loss
from unlearn.problem.examples import asked_facts
from unlearn.problem.problem import Problem
from unlearn.settings.answers import LayeredSettings


def fold_of(facts: Sequence[tuple[str, str]], n_folds: int, seed: int) -> list[int]:
    """Deal facts out into folds of equal size, at random; a fact that is asked several times is in one fold.

    Example:
        >>> folds = fold_of([("a", "x"), ("a", "x"), ("a", "y"), ("b", "x")], 3, seed=0)
        >>> folds[0] == folds[1], sorted(set(folds))
        (True, [0, 1, 2])
    """
    names = sorted(set(facts))
    order = rng("layered.folds", seed).permutation(len(names))
    fold = {names[fact]: place % n_folds for place, fact in enumerate(order)}
    return [fold[fact] for fact in facts]


class Layered(AnswerForgetting):
    """The loss of layered unlearning."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        settings, config = problem.config.settings, problem.config
        assert isinstance(settings, LayeredSettings)
        self.beta = settings.beta
        facts = asked_facts(problem.sets, problem.templates)
        self.n_folds = min(settings.n_folds, len(set(facts)))
        self.folds = fold_of(facts, self.n_folds, config.seed)
        self.plan(config.steps * config.accumulate)

    def plan(self, n_batches: int) -> None:
        """Take in how many batches the whole run has."""
        self.n_batches = n_batches

    def stage(self, step: int) -> int:
        """Return how many folds are unlearned at a batch."""
        return min(self.n_folds, 1 + step * self.n_folds // self.n_batches)

    def parts(self, step: int) -> list[Part]:
        """Return the parts of one step's loss: those of NPO, and what is kept of later folds."""
        parts, retention, config = super().parts(step), self.retention, self.problem.config
        later = [
            [*a.question, *a.answer] for a, f in zip(self.examples, self.folds, strict=True) if f >= self.stage(step)
        ]
        if retention is not None and later:
            kept = draw(later, config.batch_size, rng("layered.batch", config.seed, step))
            # Beside the retention in one part: they share modules.
            parts[0] = lambda: part("retain", config.retain_weight, retention.loss(step) + retention.on(kept))
        return parts

    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets: NPO on the folds up to this stage's."""
        now = [a for a, f in zip(self.examples, self.folds, strict=True) if f < self.stage(step)]
        batch = drawn(now, self.problem, step)
        return npo_loss(self.log_probs(batch)[0], self.reference_log_probs(batch), self.beta)
