"""One fine-tuning loop; methods differ in the parts of a loss. Order: save if due, stop if last, step, log, advance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sae_train.lm.architecture_check import architecture_of
from sae_train.lm.models import LanguageModel
from sae_train.machine.arithmetic import autocast
from sae_train.run.checkpoints import load_checkpoint, restore, save_checkpoint, state_tensors
from sae_train.run.processes import ALONE, Processes
from sae_train.run.progress import Advance, no_advance
from sae_train.run.runs import Run
from sae_train.run.stopping import saving
from sae_train.run.threads import Mapper, side_by_side
from sae_train.training.loss_watch import require_finite
from unlearn.config import UnlearnConfig
from unlearn.finetuning.budget import Budget

CLIP_NORM = 1.0
LOG_EVERY = 5  # steps; reading a loss waits for the device
CARRIED = "carried."  # before the names of what an objective carries, in a checkpoint
BUDGET = "budget."  # and of what a KL budget does
MOST_PARTS = 3  # that a loss is computed in at the same time
SMALL = 10_000_000  # trainable numbers; in a larger model one matrix product keeps all threads busy


@dataclass(frozen=True)
class LossTerms:
    """A part of the loss, weighted, and its terms by name, not weighted."""

    loss: Tensor
    terms: dict[str, Tensor]


Part = Callable[[], LossTerms]


@runtime_checkable
class Objective(Protocol):
    """What a method contributes: the loss of a batch, a function of model and batch number alone.

    More that it may have: `Preparing`, `Staged`, `Carrying`.
    """

    def parts(self, step: int) -> Sequence[Part]:
        """Return the parts whose sum is the loss of one batch; batches and steps are the same with one batch a step.

        They may run at the same time: each on modules of its own (`Problem.beside`), the longest first.
        """
        ...


@runtime_checkable
class Preparing(Protocol):
    """An objective that changes the model before the first step; building it changes nothing."""

    def prepare(self) -> None:
        """Change the model's weights in place; called once, also where a run is resumed."""
        ...


@runtime_checkable
class Staged(Protocol):
    """An objective whose loss depends on how far the run is."""

    def plan(self, n_batches: int) -> None:
        """Take in how many batches the whole run has, in all processes together."""
        ...


@runtime_checkable
class Carrying(Protocol):
    """An objective that carries something from batch to batch, which is saved with the model.

    In several processes each carries its own: there a run is saved only where it begins anew.
    """

    @property
    def fresh_every(self) -> int:
        """Return after how many batches it begins anew: at batches whose number this divides."""
        ...

    def carried(self) -> dict[str, Tensor]:
        """Return what it carries."""
        ...

    def take_up(self, carried: Mapping[str, Tensor]) -> None:
        """Go on with what was saved."""
        ...


@runtime_checkable
class WeightEdit(Protocol):
    """What a method contributes that needs no loop: it solves for the new weights and writes them.

    Attributes:
        has_full_size: The edit as written is the largest there is; else a KL budget decides how far it goes.
    """

    has_full_size: bool

    def edit(self, advance: Advance = no_advance) -> dict[str, float]:
        """Change the model's weights in place; return figures for the record.

        Args:
            advance: Called with 0 and what is being done, several times a minute.
        """
        ...


@dataclass
class TuneState:
    """Everything that changes while fine-tuning, and the step size at its highest."""

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    lr: float
    step: int = 0


class Tuned(NamedTuple):
    """What the loop ends with: the terms logged last, and the steps done."""

    terms: dict[str, float]
    steps: int


def trainable_parameters(model: nn.Module, choice: str) -> dict[str, nn.Parameter]:
    """Return the parameters that may change, by name; the embedding (and a head tied to it) never does.

    Raises:
        ConfigError: `down_proj`, where no MLP has an output matrix.
    """
    # By identity, not by name: a tied head is the same tensor as the embedding.
    frozen = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    named = {n: p for n, p in model.named_parameters() if id(p) not in frozen}
    if choice == "lora":
        return {n: p for n, p in named.items() if "lora_" in n}
    if choice == "down_proj":
        written = set(architecture_of(model).written_parameters())
        return {n: p for n, p in named.items() if n in written}
    return named


def adamw(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.AdamW:
    """Return AdamW without weight decay, in one pass over memory where torch has such a step."""
    held = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda") for p in held)
    return torch.optim.AdamW(held, lr=lr, weight_decay=0.0, fused=fused)


def finetune(
    lm: LanguageModel,
    objective: Objective,
    config: UnlearnConfig,
    run: Run | None,
    *,
    folder: Path,
    identity: Mapping[str, str],
    resume: bool,
    processes: Processes = ALONE,
    passes: Callable[[int], bool] | None = None,
    budget: Budget | None = None,
    advance: Advance = no_advance,
) -> Tuned:
    """Train the model in place.

    Args:
        lm: The model.
        objective: Its loss.
        config: Steps, step size and the like.
        run: What is logged to; None in all processes but the first.
        folder: Where checkpoints lie.
        identity: What a run must be continued with.
        resume: Go on from a checkpoint, if there is one.
        processes: This process among the others.
        passes: Asked every `check_every` steps whether to stop here.
        budget: Looked at as often, before the first step and behind the last one; ends the run where it is spent.
        advance: Called with steps done and the terms.

    Raises:
        NumericalError: A loss is not finite.
        ConfigError: At resume, the config or an input has changed.
    """
    parameters = trainable_parameters(lm.model, config.train)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    lr = config.step_size(lm.d_model)
    optimizer = adamw(parameters.values(), lr)
    state = TuneState(parameters, optimizer, lr)
    if isinstance(objective, Staged):
        objective.plan(_first_batch(config.steps, config, processes))
    found = load_checkpoint(folder, identity) if resume else None
    if found is not None:
        _take_up(found, state, objective, budget, processes)
        advance(0, earlier=state.step)
    values: dict[str, float] = {}
    saved = state.step
    save = partial(_save, state, objective, budget, None if run is None else folder, identity)
    is_small = sum(p.numel() for p in parameters.values()) <= SMALL
    # The products of a small model are too short for two cores, whole parts of the loss are not: 200 to 217 ms a step
    # instead of 251 to 320 (docs/results/log_redirection.md, "less time").
    with side_by_side(lm.device, MOST_PARTS if is_small else 1) as mapped, saving(save, processes) as stop_if_told:
        while True:
            # Asked before the step, so that a resumed run stops where the uninterrupted one would have.
            if _is_over(state.step, config, passes, budget, run):
                break
            # "At least save_every ago", not a multiple of it: where saving is not possible now, the next possible step
            # will do. Not after the last step, when the model itself is saved.
            can_save = _can_save(state, objective, config, processes)
            if saved + config.save_every <= state.step < config.steps and can_save:
                saved = state.step
                save()
            if can_save:
                stop_if_told()
            if state.step >= config.steps:
                break
            terms = tune_step(state, objective, config, lm.device, processes, mapped)
            if state.step % LOG_EVERY == 0 or state.step == config.steps:
                values = _checked(terms, state.step)
                if run is not None:
                    run.log(step=state.step, **values)
            advance(1, **values)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        parameter.grad = None  # as large as the model; the checks that follow need none
    return Tuned(values, state.step)


def tune_step(
    state: TuneState,
    objective: Objective,
    config: UnlearnConfig,
    device: torch.device,
    processes: Processes = ALONE,
    mapped: Mapper = map,
) -> dict[str, Tensor]:
    """Advance by one step: gradients of all batches, linear warm-up, cosine decay to a tenth, clipped gradient.

    Returns:
        The loss and its terms, means over this process's batches.
    """
    state.optimizer.zero_grad(set_to_none=True)
    held = list(state.parameters.values())
    sums: dict[str, Tensor] = {}
    for own in range(config.accumulate):
        # Batches are numbered through: n processes see the same ones as one process that accumulates n.
        batch = _first_batch(state.step, config, processes) + own * processes.count + processes.rank
        words = {"held": held, "config": config, "device": device, "count": processes.count}
        gradients_of = partial(_gradients, **words, in_place=mapped is map)  # one part at a time
        # Added in the order of the parts, whichever ends first: the order decides the last bit of a sum.
        for loss, terms, gradients in mapped(gradients_of, objective.parts(batch)):
            for parameter, gradient in zip(held, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / config.accumulate
    _sum_gradients(state.parameters.values(), processes)
    # After the sum over processes: clipping each share by itself would change the direction.
    torch.nn.utils.clip_grad_norm_(state.parameters.values(), CLIP_NORM)
    warmup = min(1.0, (state.step + 1) / max(1, config.warmup_steps))
    # Cosine from 1 to a tenth. Down to zero gained nothing (docs/results/log_redirection.md, "less time").
    decay = 0.1 + 0.45 * (1 + math.cos(math.pi * state.step / config.steps))
    for group in state.optimizer.param_groups:
        group["lr"] = state.lr * warmup * decay
    state.optimizer.step()
    state.step += 1
    return sums


def _is_over(
    step: int, config: UnlearnConfig, passes: Callable[[int], bool] | None, budget: Budget | None, run: Run | None
) -> bool:
    """Tell whether the run ends here: the budget is spent, or the targets pass."""
    is_due = step % config.check_every == 0
    # Before the first step, too: an objective may have changed the model.
    if budget is not None and (is_due or step >= config.steps):
        is_spent = budget.is_spent()
        if run is not None:
            run.log(step=step, kl=budget.kl)
        if is_spent:
            return True
    return passes is not None and step > 0 and is_due and passes(step)


def _save(
    state: TuneState, objective: Objective, budget: Budget | None, folder: Path | None, identity: Mapping[str, str]
) -> None:
    """Write a checkpoint; nothing in a process that writes none."""
    if folder is not None:
        tensors = state_tensors(state.parameters, state.optimizer) | _carried(objective)
        tensors |= {} if budget is None else {BUDGET + k: v for k, v in budget.carried().items()}
        save_checkpoint(folder, tensors, step=state.step, identity=identity)


def _take_up(
    found: tuple[dict[str, Tensor], int],
    state: TuneState,
    objective: Objective,
    budget: Budget | None,
    processes: Processes,
) -> None:
    """Go on from a checkpoint."""
    tensors, state.step = found
    restore(tensors, state.parameters, state.optimizer)
    # With several processes a run is saved only where the carried state begins anew: there is nothing to take up.
    if isinstance(objective, Carrying) and processes.count == 1:
        objective.take_up(_named(tensors, CARRIED))
    if budget is not None:
        budget.take_up(_named(tensors, BUDGET))


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _can_save(state: TuneState, objective: Objective, config: UnlearnConfig, processes: Processes) -> bool:
    """Tell whether a run can go on from here: with what is carried, or where there is nothing to carry."""
    if processes.count == 1 or not isinstance(objective, Carrying):
        return True
    return _first_batch(state.step, config, processes) % objective.fresh_every == 0


def _carried(objective: Objective) -> dict[str, Tensor]:
    """Return what an objective carries, named for a checkpoint."""
    return {CARRIED + k: v for k, v in objective.carried().items()} if isinstance(objective, Carrying) else {}


def _first_batch(step: int, config: UnlearnConfig, processes: Processes) -> int:
    """Return the number of a step's first batch."""
    return step * config.accumulate * processes.count


def _gradients(
    part: Part, held: Sequence[nn.Parameter], config: UnlearnConfig, device: torch.device, count: int, *, in_place: bool
) -> tuple[Tensor, dict[str, Tensor], Sequence[Tensor | None]]:
    """Return a part's loss, its terms, and its share of the gradient; None for a parameter that it does not touch.

    In place the share is added to `.grad` parameter by parameter, and a second gradient as large as the model is never
    held; all that is returned then is None.
    """
    with autocast(device, enabled=config.autocast):
        found = part()
    loss = found.loss / (config.accumulate * count)
    if in_place:
        torch.autograd.backward(loss, inputs=list(held))
        return found.loss.detach(), found.terms, [None] * len(held)
    # Not `backward`: parts that run at the same time would add to the same `.grad`.
    return found.loss.detach(), found.terms, torch.autograd.grad(loss, held, allow_unused=True)


def _sum_gradients(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Replace every gradient by its sum over the processes; one that this process has not counts as zero."""
    if processes.count == 1:
        return
    held = list(parameters)
    # One sum for all parameters, of the same length in every process, also where a part gave no gradient.
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in held])
    processes.sum_(flat)
    for parameter, part in zip(held, flat.split([p.numel() for p in held]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def _checked(terms: dict[str, Tensor], step: int) -> dict[str, float]:
    """Bring the terms to the host and stop on NaN or Inf."""
    values = {k: float(v) for k, v in terms.items()}
    require_finite(values, step, what="unlearning")
    return values
