"""Guard against relearning: taught some facts of the targets, the model must not find the others.

What was only hidden is hidden as one thing, and one lesson lifts the cover from all of it. So, at a step, the facts
of the targets are parted at random into taught and asked ones; a relearning attacker takes one or a few steps on the
taught ones, theta' <- theta' - rate * sign(grad of their loss), as Adam's first steps are; and at theta' the answers to
the asked questions have to be those that theta' gives about the paired unknown entity:

    guard = KL(p_theta'(. | unknown entity) || p_theta'(. | target))

What lessons do to an unknown entity they may do to the target: that is the never-learned control of the audit. Aiming
at the untaught model's answer would ask of the target what no unknown entity can do, and a classifier sees that.
The gradient at theta' is applied at theta (first order), and none runs through the aim.

Source: the idea of meta-learned tamper resistance, Henderson et al. 2023 (arXiv:2211.14946) and Tamirisa et al. 2024
(arXiv:2408.00761); here with the split of facts that the relearning attack of the audit uses, and an unknown entity as
the aim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from features.prompts import render
from sae_train.lm.generate import answer_loss
from unlearn.data import encode, training_prompts
from unlearn.divergence import next_token_kl
from unlearn.examples import Answered, encode_answered
from unlearn.pairs import Pair, pair_batch
from unlearn.problem import Problem
from unlearn.settings import RedirectSettings


@dataclass(frozen=True)
class Lesson:
    """One question about a target.

    Attributes:
        target: Index of the target.
        attribute: What is asked for.
        pair: The question, and the same one about the unknown entity.
        answered: The question and its true answer.
    """

    target: int
    attribute: str
    pair: Pair
    answered: Answered


class RelearnGuard:
    """Takes an attacker's steps and returns what the model then still finds."""

    def __init__(self, problem: Problem, settings: RedirectSettings) -> None:
        self.problem, self.rate, self.n_steps = problem, settings.guard_rate, settings.guard_steps
        self.n_lessons, self.n_questions = settings.guard_lessons, settings.guard_questions
        self.taught_loss = _TaughtLoss(problem.lm.model, problem.lm.device)
        self.lessons = make_lessons(problem)
        self.units = sorted({(lesson.target, lesson.attribute) for lesson in self.lessons})

    @property
    def can_part(self) -> bool:
        """Tell whether there are two facts: one to teach, another to ask for."""
        return len(self.units) > 1

    def loss(self, generator: np.random.Generator) -> Float[Tensor, ""]:
        """Return KL(unknown entity || target) of the next token after the attack, on facts that were not taught."""
        taught, asked = self._split(generator)
        moved = self._taught_weights(taught, generator)
        batch = pair_batch([lesson.pair for lesson in asked], "from-name-on", self.problem.lm.device)
        with torch.no_grad():
            aim = self._logits(moved, batch.partner_ids, batch.partner_mask)
        logits = self._logits(moved, batch.ids, batch.mask)
        return next_token_kl(batch.at.of(logits), batch.partner_at.of(aim))

    def _taught_weights(self, taught: Sequence[Lesson], generator: np.random.Generator) -> dict[str, Tensor]:
        """Return the trainable weights after some steps of the attacker; their gradient is that of the weights now."""
        named = {n: p for n, p in self.problem.lm.model.named_parameters() if p.requires_grad}
        moved: dict[str, Tensor] = dict(named)
        for _ in range(self.n_steps):
            lessons = _draw(taught, self.n_lessons, generator)
            loss = functional_call(self.taught_loss, {f"model.{n}": w for n, w in moved.items()}, (lessons,))
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            moved = {
                n: w if g is None else w - self.rate * g.sign()
                for (n, w), g in zip(moved.items(), gradients, strict=True)
            }
        return moved

    def _logits(self, weights: dict[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        """Run the model with other weights."""
        words = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        return functional_call(self.problem.lm.model, weights, args=(), kwargs=words).logits

    def _split(self, generator: np.random.Generator) -> tuple[list[Lesson], list[Lesson]]:
        """Part the facts at random: all lessons that may be taught, and the questions that are asked."""
        order = generator.permutation(len(self.units))
        taught_units = {self.units[i] for i in order[: max(1, len(order) // 2)]}
        taught = [lesson for lesson in self.lessons if (lesson.target, lesson.attribute) in taught_units]
        asked = [lesson for lesson in self.lessons if (lesson.target, lesson.attribute) not in taught_units]
        return taught, _draw(asked, self.n_questions, generator)


class _TaughtLoss(nn.Module):
    """The mean loss of the true answers' tokens, nats; a module, so that it can be asked with other weights."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model, self.device = model, device

    def forward(self, lessons: Sequence[Lesson]) -> Float[Tensor, ""]:
        """Return it for some lessons."""
        pairs = [(x.answered.question, x.answered.answer) for x in lessons]
        return answer_loss(self.model, pairs, self.device)


def make_lessons(problem: Problem) -> list[Lesson]:
    """Return one lesson per training question about a target."""
    found: list[Lesson] = []
    for index, (target, partner) in enumerate(zip(problem.sets.forget, problem.sets.partner, strict=True)):
        asked = [p for p in training_prompts(target, problem.templates) if p.attribute]
        own = encode(problem.lm, asked)
        other = encode(problem.lm, [render(p.template, partner, p.attribute) for p in asked])
        answers = [f" {target.facts[p.attribute or ''][0]}" for p in asked]
        answered = encode_answered(problem.lm, [p.text for p in asked], answers)
        found += [
            Lesson(index, p.attribute or "", (a, b), c) for p, a, b, c in zip(asked, own, other, answered, strict=True)
        ]
    return found


def _draw(lessons: Sequence[Lesson], size: int, generator: np.random.Generator) -> list[Lesson]:
    """Draw some lessons without replacement."""
    return [lessons[i] for i in generator.permutation(len(lessons))[:size]]
