"""Base of the output-side methods: a forget term, the shared retention loss, and the draw of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from features.entities.entities import Entity
from features.entities.name_tokens import Encoded, encode
from sae_train.lm.generate import pad_right
from sae_train.lm.hooks import captured
from sae_train.rng import rng
from unlearn.finetuning.finetune import LossTerms, Part
from unlearn.losses.retention import Retention
from unlearn.problem.data import training_prompts
from unlearn.problem.examples import Answered, answer_log_probs, own_answers
from unlearn.problem.problem import Problem

T = TypeVar("T")
STATISTICS_PROMPTS = 512  # enough for a mean and a variance


def drawn(items: Sequence[T], problem: Problem, step: int) -> list[T]:
    """Draw a step's batch without replacement; a function of seed and step alone."""
    generator = rng("forgetting.batch", problem.config.seed, step)
    size = min(problem.config.batch_size, len(items))
    return [items[i] for i in generator.choice(len(items), size=size, replace=False)]


class ForgetRetain(ABC):
    """loss = forget + retain_weight * retain; a method gives the first term."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.retention = self.retain(problem.beside()) if problem.config.retain_weight > 0 else None

    def retain(self, problem: Problem) -> Retention:
        """Return the retention; a method may have one of its own."""
        return Retention(problem)

    @abstractmethod
    def forget(self, step: int) -> Float[Tensor, ""]:
        """Return the term that forgets, with its graph."""

    def parts(self, step: int) -> list[Part]:
        """Return the parts of one step's loss."""
        parts: list[Part] = [lambda: part("forget", 1.0, self.forget(step))]
        retention = self.retention
        if retention is not None:
            parts.insert(0, lambda: part("retain", self.problem.config.retain_weight, retention.loss(step)))
        return parts


def part(name: str, weight: float, value: Tensor) -> LossTerms:
    """Return a part of the loss with one term."""
    return LossTerms(weight * value, {name: value.detach()})


class AnswerForgetting(ForgetRetain):
    """Methods that push the answers about the targets down."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.examples = own_answers(problem.lm, problem.sets, problem.templates)

    def log_probs(self, batch: Sequence[Answered]) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Return log p(answer | question) under the model being trained, and the answers' lengths."""
        return answer_log_probs(self.problem.lm.model, batch, self.problem.lm.device)

    @torch.no_grad()
    def reference_log_probs(self, batch: Sequence[Answered]) -> Float[Tensor, " batch"]:
        """Return log p(answer | question) under the original model."""
        return answer_log_probs(self.problem.reference, batch, self.problem.lm.device)[0]


class ActivationReader:
    """Reads activations at the SAE's hook point, from the last name token of a prompt on."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.hook_point = problem.latents.hook_point

    def prompts_of(self, entities: Sequence[Entity]) -> list[Encoded]:
        """Return the training prompts about some entities."""
        return encode(self.problem.lm, [p for e in entities for p in training_prompts(e, self.problem.templates)])

    def acts(self, model: nn.Module, batch: Sequence[Encoded]) -> Float[Tensor, "n d_model"]:
        """Return a model's activations at the hook point, one row per token from the last name token on."""
        ids, mask = pad_right([e.ids for e in batch], device=self.problem.lm.device)
        with captured(model, [self.hook_point]) as found:
            model(input_ids=ids, attention_mask=mask, use_cache=False)
        return found[self.hook_point][from_name_on(batch, ids.device)].float()

    @torch.no_grad()
    def reference_acts(self, prompts: Sequence[Encoded], *, at_most: int = STATISTICS_PROMPTS) -> Tensor:
        """Return the original model's activations on a sample of prompts, (n, d_model); chunked."""
        order = rng("forgetting.statistics", self.problem.config.seed).permutation(len(prompts))[:at_most]
        chosen = [prompts[i] for i in order]
        return torch.cat([self.acts(self.problem.reference, chosen[i : i + 64]) for i in range(0, len(chosen), 64)])


class ActivationForgetting(ActivationReader, ForgetRetain):
    """Methods that move the targets' activations at one hook point, the SAE's; from the last name token on."""

    def __init__(self, problem: Problem) -> None:
        ActivationReader.__init__(self, problem)
        ForgetRetain.__init__(self, problem)
        self.examples = self.prompts_of(problem.sets.forget)


def from_name_on(batch: Sequence[Encoded], device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return (row, position) of every prompt's last name token and of every token behind it, on a device."""
    places = [(row, at) for row, e in enumerate(batch) for at in range(e.name_at, len(e.ids))]
    rows, positions = torch.tensor(places, device=device).unbind(1)
    return rows, positions


def variance(acts: Float[Tensor, "n d_model"]) -> float:
    """Return the mean squared distance from the mean: the unit in which activations' distances are counted."""
    return float((acts - acts.mean(0)).square().sum(dim=1).mean())
