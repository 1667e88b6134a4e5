"""One fine-tuning loop; methods differ in a loss. Order: save if due, stop if last, step, log, advance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sae_train.checkpoints import load_checkpoint, restore, save_checkpoint, state_tensors
from sae_train.errors import NumericalError
from sae_train.lm.models import LanguageModel
from sae_train.runs import Run
from unlearn.config import UnlearnConfig

CLIP_NORM = 1.0
LOG_EVERY = 5
_DOWN_PROJECTIONS = ("mlp.down_proj.weight", "mlp.c_proj.weight", "mlp.dense_4h_to_h.weight")


@dataclass(frozen=True)
class LossTerms:
    """The loss of a step and its named parts."""

    loss: Tensor
    terms: dict[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """What a method contributes: the loss of a step, a function of model and step number alone."""

    def loss(self, step: int) -> LossTerms:
        """Return the loss of one step, with its graph."""
        ...


@runtime_checkable
class WeightEdit(Protocol):
    """What a method contributes that needs no loop: it solves for the new weights and writes them."""

    def edit(self) -> dict[str, float]:
        """Change the model's weights in place; return figures for the record."""
        ...


@dataclass
class TuneState:
    """Everything that changes while fine-tuning."""

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    step: int = 0


def trainable_parameters(model: nn.Module, choice: str) -> dict[str, nn.Parameter]:
    """Return the parameters that may change, by name; the embedding (and a head tied to it) never does."""
    frozen = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    named = {n: p for n, p in model.named_parameters() if id(p) not in frozen}
    if choice == "down_proj":
        return {n: p for n, p in named.items() if n.endswith(_DOWN_PROJECTIONS)}
    return named


def finetune(
    lm: LanguageModel,
    objective: Objective,
    config: UnlearnConfig,
    run: Run,
    *,
    identity: Mapping[str, str],
    resume: bool,
    advance: Callable[[int, dict[str, float]], None] = lambda n, terms: None,
) -> dict[str, float]:
    """Train the model in place; return the last logged terms.

    Raises:
        NumericalError: A loss is not finite.
        ConfigError: At resume, the config or an input has changed.
    """
    parameters = trainable_parameters(lm.model, config.train)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.lr, weight_decay=0.0)
    state = TuneState(parameters, optimizer)
    found = load_checkpoint(run.folder, identity) if resume else None
    if found is not None:
        restore(found[0], parameters, optimizer)
        state.step = found[1]
        advance(state.step, {})
    values: dict[str, float] = {}
    while True:
        if state.step and state.step % config.save_every == 0 and state.step < config.steps:
            tensors = state_tensors(parameters, optimizer)
            save_checkpoint(run.folder, tensors, step=state.step, identity=identity)
        if state.step >= config.steps:
            break
        terms = tune_step(state, objective, config)
        if state.step % LOG_EVERY == 0 or state.step == config.steps:
            values = _checked(terms, state.step)
            run.log(step=state.step, **values)
        advance(1, values)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return values


def tune_step(state: TuneState, objective: Objective, config: UnlearnConfig) -> dict[str, Tensor]:
    """Advance by one step: linear warm-up, cosine decay to a tenth, clipped gradient."""
    result = objective.loss(state.step)
    state.optimizer.zero_grad(set_to_none=True)
    result.loss.backward()
    torch.nn.utils.clip_grad_norm_(state.parameters.values(), CLIP_NORM)
    warmup = min(1.0, (state.step + 1) / max(1, config.warmup_steps))
    decay = 0.1 + 0.45 * (1 + math.cos(math.pi * state.step / config.steps))
    for group in state.optimizer.param_groups:
        group["lr"] = config.lr * warmup * decay
    state.optimizer.step()
    state.step += 1
    return {"loss": result.loss.detach(), **result.terms}


def _checked(terms: dict[str, Tensor], step: int) -> dict[str, float]:
    """Bring the terms to the host and stop on NaN or Inf."""
    values = {k: float(v) for k, v in terms.items()}
    if not all(map(math.isfinite, values.values())):
        shown = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
        raise NumericalError(
            f"unlearning diverged at step {step}", got=shown, expected="finite losses", try_="a smaller --lr"
        )
    return values


def checkpoint_folder(out: Path) -> Path:
    """Return where a run keeps its state until the model is whole."""
    return out.with_name(out.name + ".run")
