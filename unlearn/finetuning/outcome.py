"""The outcome of a run: how far the weights moved, and whether what is retained has collapsed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sae_train.errors import CollapseError, NoChangeError
from sae_train.lm.adapters import adapter_change
from sae_train.lm.generate import text_loss
from sae_train.lm.models import LanguageModel
from unlearn.finetuning.finetune import trainable_parameters
from unlearn.problem.data import retained_prompts
from unlearn.problem.problem import Problem

SMALLEST_CHANGE = 1e-6  # relative; below it nothing was learned
KEPT_ENTITIES, KEPT_WINDOWS = 64, 128  # on which a collapse is looked for


@dataclass(frozen=True)
class Outcome:
    """What a run changed and what that cost.

    Attributes:
        changed_parameters: Parameters with another value than before.
        relative_change: ||new - old|| / ||old|| over the trainable ones.
        retained_loss_before, retained_loss_after: Loss on held-out known entities' prompts with their answers and on
            general text, nats a token.
    """

    changed_parameters: int
    relative_change: float
    retained_loss_before: float
    retained_loss_after: float


@torch.no_grad()
def relative_change(model: nn.Module, reference: nn.Module, choice: str) -> tuple[int, float]:
    """Return how many parameters changed, and ||new - old|| / ||old|| over the trainable ones."""
    if choice == "lora":
        return adapter_change(model)
    before = trainable_parameters(reference, choice)
    moved: list[Tensor] = []
    size: list[Tensor] = []
    n_changed = 0
    for name, after in trainable_parameters(model, choice).items():
        gap = (after - before[name]).float()
        n_changed += int((gap != 0).sum())
        moved.append(gap.square().sum())
        size.append(before[name].float().square().sum())
    return n_changed, float((torch.stack(moved).sum() / torch.stack(size).sum().clamp_min(1e-30)).sqrt())


def check_outcome(problem: Problem) -> Outcome:
    """Refuse a run that changed nothing, and one that destroyed what was to be kept.

    Raises:
        NoChangeError: Nothing was changed.
        CollapseError: The loss on what was to be kept rose too far.
    """
    config = problem.config
    n_changed, share = relative_change(problem.lm.model, problem.reference, config.train)
    if n_changed == 0 or share < SMALLEST_CHANGE:
        raise NoChangeError(
            "the run changed nothing",
            got=f"{n_changed} parameters changed, relative change {share:.2g}",
            expected=f"a relative change of at least {SMALLEST_CHANGE:g}",
            try_="a larger `lr` or more `steps`",
        )
    kept = problem.sets.holdout or problem.sets.retain
    asked = [e.ids for e in retained_prompts(problem.lm, kept[:KEPT_ENTITIES], problem.templates)]
    windows = asked + problem.text[:KEPT_WINDOWS]
    after = text_loss(problem.lm, windows)
    before = text_loss(LanguageModel(problem.reference, problem.lm.tokenizer, "reference", problem.lm.device), windows)
    if not after <= before * (1 + config.max_loss_increase) + 0.1:
        raise CollapseError(
            "the model collapsed",
            got=f"retained loss {before:.3f} -> {after:.3f}",
            expected=f"a rise of at most {config.max_loss_increase:.0%}",
            try_=f"a smaller `lr` than {config.step_size(problem.lm.d_model):.2g} or a larger `retain_weight`",
        )
    return Outcome(n_changed, share, before, after)
