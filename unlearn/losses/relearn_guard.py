"""Guard against relearning: facts that an attacker does not teach must stay unknown when others are taught.

Facts that are only hidden are hidden together, and one lesson brings all of them back. So the loss simulates an
attacker: the facts of the targets are parted at random into taught and asked ones; at every batch the attacker takes
one more AdamW step on the taught ones, as the audit's relearning does, from the model theta as it is by then; and
delta away, where all of its steps have led, the asked questions have to be answered as those about the paired unknown
entity:

    guard = KL(p_{theta + delta}(. | unknown entity) || p_{theta + delta}(. | target))

After `guard_steps` batches the attacker begins anew, delta = 0, with facts parted anew: so the guard sees an attack of
every length up to that, for the price of one step a batch.

What lessons do to an unknown entity they may do to the target: that is the never-learned control of the audit. Aiming
at the untaught model's answer would ask of the target what no unknown entity can do, and a classifier sees that.
The gradient at theta + delta is applied at theta (first order), and none runs through the aim.

Source: the idea of meta-learned tamper resistance, Henderson et al. 2023 (arXiv:2211.14946) and Tamirisa et al. 2024
(arXiv:2408.00761); here with the split of facts that the relearning attack of the audit uses, an unknown entity as
the aim, and an attacker that lives on from batch to batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from features.entities.name_tokens import encode
from features.entities.prompts import render
from sae_train.lm.generate import answer_loss, logits_at
from sae_train.run.checkpoints import restore, state_tensors
from sae_train.text.packing import Batch, Places, can_pack
from unlearn.finetuning.finetune import CLIP_NORM, adamw
from unlearn.losses.divergence import next_token_kl
from unlearn.losses.perturbed import at_weights
from unlearn.problem.data import training_prompts
from unlearn.problem.examples import Answered, encode_answered
from unlearn.problem.paired_prompts import Pair, pair_batch
from unlearn.problem.problem import Problem
from unlearn.settings.redirection import RedirectSettings


@dataclass(frozen=True)
class Lesson:
    """One training question about a target, with the paired question about its unknown entity.

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
    """Simulates an attacker that relearns some facts, and returns the loss on the facts it was not taught."""

    def __init__(self, problem: Problem, settings: RedirectSettings) -> None:
        self.problem, self.settings = problem, settings
        self.lessons = make_lessons(problem)
        # Facts are parted, not questions: a taught fact must not be asked for in other words.
        self.units = sorted({(lesson.target, lesson.attribute) for lesson in self.lessons})
        self.attacker: Attacker | None = None
        self.packed = can_pack(problem.original)

    @property
    def can_part(self) -> bool:
        """Tell whether there are at least two facts: one to teach, another to ask for."""
        return len(self.units) > 1

    def loss(self, batch: int, generator: np.random.Generator) -> Float[Tensor, ""]:
        """Return KL(unknown entity || target) of the next token under attack, on facts that were not taught.

        Args:
            batch: Its number; batches are asked for in order, from the first of an attack on.
            generator: Draws lessons and questions, and parts the facts at the first batch of an attack.
        """
        attacker = self._attacker_of(batch, generator)
        # The lesson comes before the questions, so that even the first batch of an attack is asked after one.
        attacker.learn(_draw(attacker.taught, self.settings.guard_lessons, generator))
        asked = _draw(attacker.asked, self.settings.guard_questions, generator)
        weights = attacker.weights()
        drawn, device = [lesson.pair for lesson in asked], self.problem.lm.device
        pairs = pair_batch(drawn, "from-name-on", device, packed=self.packed)
        with torch.no_grad():
            # Under the same attack, since lessons change what is said about unknown entities, too. With the untaught
            # model as the aim a classifier found the targets: AUROC 0.65 to 0.84 at the last block, with this one at
            # most 0.56 (docs/results/log_redirection.md, "no more than an unknown entity can do").
            aim = self._logits(weights, pairs.other, pairs.other_at)
        return next_token_kl(self._logits(weights, pairs.own, pairs.at), aim)

    def _attacker_of(self, batch: int, generator: np.random.Generator) -> Attacker:
        """Return the attacker of a batch: the current one, or a new one with a new split of the facts."""
        attack, age = divmod(batch, self.settings.guard_steps)
        # Also by number: with `guard_every` the first batch of an attack may be one that is not asked for.
        if self.attacker is None or attack != self.attacker.number or age == 0:
            order = generator.permutation(len(self.units))
            # Half are taught, half are asked for, as in the audit's relearning attack.
            self.attacker = self._attacker(attack, order[: max(1, len(order) // 2)].tolist())
        return self.attacker

    def _attacker(self, number: int, taught: list[int]) -> Attacker:
        """Return an attacker that teaches the facts with these numbers and asks for the others."""
        units = {self.units[i] for i in taught}
        lessons = {True: list[Lesson](), False: list[Lesson]()}
        for lesson in self.lessons:
            lessons[(lesson.target, lesson.attribute) in units].append(lesson)
        return Attacker(
            self.problem,
            number,
            taught,
            lessons[True],
            lessons[False],
            rate=self.settings.guard_rate,
            packed=self.packed,
        )

    def carried(self) -> dict[str, Tensor]:
        """Return the current attacker's number, taught facts, offset and optimizer state; empty before the first."""
        if self.attacker is None:
            return {}
        known = {"attack": torch.tensor(self.attacker.number), "taught": torch.tensor(self.attacker.units)}
        return known | state_tensors(self.attacker.away, self.attacker.optimizer)

    def take_up(self, carried: Mapping[str, Tensor]) -> None:
        """Restore a saved attacker."""
        if not carried:
            return
        self.attacker = self._attacker(int(carried["attack"]), carried["taught"].tolist())
        restore(carried, self.attacker.away, self.attacker.optimizer)

    def _logits(self, weights: dict[str, Tensor], batch: Batch, places: Places) -> Tensor:
        """Return the logits behind some tokens of a batch, of the model with other weights."""
        return at_weights(self.problem.lm.model, weights, lambda model: logits_at(model, batch, places))


class Attacker:
    """A simulated relearning attack on some facts: AdamW, clipped gradient, loss on the answer tokens alone.

    Attributes:
        number: Which of a run's attackers this is.
        units: Numbers of the facts that are taught.
        taught: Lessons that are given.
        asked: Lessons of other facts, which are not.
        away: How far the attacker has gone from the weights, whatever these are by now.
    """

    def __init__(
        self,
        problem: Problem,
        number: int,
        units: list[int],
        taught: list[Lesson],
        asked: list[Lesson],
        *,
        rate: float,
        packed: bool,
    ) -> None:
        self.number, self.units, self.taught, self.asked = number, units, taught, asked
        self.lm, self.packed = problem.lm, packed
        self.own = {n: p for n, p in problem.lm.model.named_parameters() if p.requires_grad}
        # The offset is kept, not the weights: the model changes below the attacker, who goes on from where it is by
        # then.
        self.away = {n: nn.Parameter(torch.zeros_like(p)) for n, p in self.own.items()}
        self.optimizer = adamw(self.away.values(), rate)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights under attack; their gradient is that of the model's own."""
        # First order: the gradient at the attacked weights is applied to the model's own, none runs through the attack.
        return {n: p + self.away[n].detach() for n, p in self.own.items()}

    def learn(self, lessons: Sequence[Lesson]) -> None:
        """Take one step on some lessons."""
        pairs = [(x.answered.question, x.answered.answer) for x in lessons]
        weights = {n: p.detach() + self.away[n] for n, p in self.own.items()}
        held = list(self.away.values())
        words = {"device": self.lm.device, "packed": self.packed}
        loss = at_weights(self.lm.model, weights, lambda model: answer_loss(model, pairs, **words))
        gradients = torch.autograd.grad(loss, held, allow_unused=True)
        for parameter, gradient in zip(held, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(held, CLIP_NORM)
        self.optimizer.step()


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
