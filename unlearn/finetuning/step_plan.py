"""What a fine-tuning will take, before its first step: memory by what is held, the rest from two batches tried out.

    peak = weights held + the copy that changes + gradient + two moments + what a KL budget keeps + working memory

All in float32, as AdamW has them here. Working memory (activations, logits, what a guard carries along) is measured:
the gradients of two batches are computed with the real loss, and every parameter's is dropped as soon as it is there,
so that trying out takes little more than the model itself. Nothing is changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sae_train.lm.models import LanguageModel
from sae_train.machine.arithmetic import autocast
from sae_train.machine.memory import PeakMemory
from sae_train.run.processes import ALONE, Processes
from unlearn.config import UnlearnConfig
from unlearn.finetuning.finetune import Objective, Staged, adamw, trainable_parameters

TRIED = 2  # batches; a guard may sit out every other one
MOMENTS = 2  # of AdamW


@dataclass(frozen=True)
class StepPlan:
    """What the steps of a run take.

    Attributes:
        steps: Optimizer steps, those after which a run may stop early included.
        seconds: Estimated, of all of them.
        memory_bytes: Estimated peak, the models included.
        weights_bytes: Of the model, as it is computed in.
        trained: Numbers that are trained.
    """

    steps: int
    seconds: float
    memory_bytes: int
    weights_bytes: int
    trained: int

    @property
    def in_weights(self) -> float:
        """The peak in units of the model's weights."""
        return self.memory_bytes / self.weights_bytes

    @property
    def sentence(self) -> str:
        """The plan in one sentence."""
        return (
            f"{self.steps} steps on {self.trained:,} numbers: about {self.seconds:,.0f} s, "
            f"{self.memory_bytes / 2**20:,.0f} MiB at most ({self.in_weights:.1f} times the weights)"
        )


def plan_steps(
    lm: LanguageModel,
    models: Sequence[nn.Module],
    objective: Objective,
    config: UnlearnConfig,
    processes: Processes = ALONE,
) -> StepPlan:
    """Return what fine-tuning will take.

    Args:
        lm: The model that changes; it may still share all its memory with one of the others.
        models: Those that stay beside it, itself excluded.
        objective: The loss; its next batch must be the first.
        config: Steps, batches and what is trained.
        processes: This process among the others.
    """
    parameters = trainable_parameters(lm.model, config.train)
    trained = sum(p.numel() for p in parameters.values())
    held_bytes = 4 * trained  # float32, whatever the base is in
    copies = 2 + MOMENTS + (config.kl_budget is not None)  # parameter, gradient, moments, the last state in the budget
    if isinstance(objective, Staged):
        objective.plan(config.steps * config.accumulate * processes.count)
    tried = [_tried(objective, batch, parameters, config, lm.device) for batch in range(TRIED)]
    batch_s = sum(seconds for seconds, _ in tried) / TRIED
    working = max(0, *(n for _, n in tried))
    if config.kl_budget is not None:  # a state is rounded and put back where it is measured
        working = max(working, held_bytes)
    step_s = batch_s * config.accumulate + _optimizer_seconds(parameters.values(), trained)
    return StepPlan(
        steps=config.steps,
        seconds=config.steps * step_s,
        memory_bytes=weights_bytes(models) + copies * held_bytes + working,
        weights_bytes=weights_bytes(models[:1]),
        trained=trained,
    )


def weights_bytes(models: Iterable[nn.Module]) -> int:
    """Return the bytes of parameters and buffers, what is held together counted once."""
    tensors: list[Tensor] = [t for m in models for t in (*m.parameters(), *m.buffers())]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _tried(
    objective: Objective, batch: int, parameters: dict[str, nn.Parameter], config: UnlearnConfig, device: torch.device
) -> tuple[float, int]:
    """Return the seconds and the working memory of one batch's gradients, which are dropped."""
    held = list(parameters.values())
    with _gradients_dropped(held), PeakMemory(device) as peak:
        started = time.perf_counter()
        for part in objective.parts(batch):
            with autocast(device, enabled=config.autocast):
                found = part()
            torch.autograd.backward(found.loss, inputs=held)
            del found
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds, peak.n_bytes


@contextmanager
def _gradients_dropped(held: Sequence[nn.Parameter]) -> Any:
    """Ask for gradients, and drop each as soon as it is computed."""
    hooks = [p.requires_grad_(True).register_post_accumulate_grad_hook(_drop) for p in held]
    try:
        yield
    finally:
        for hook, parameter in zip(hooks, held, strict=True):
            hook.remove()
            parameter.grad = None


def _drop(parameter: Tensor) -> None:
    """Drop a gradient."""
    parameter.grad = None


def _optimizer_seconds(parameters: Iterable[nn.Parameter], trained: int) -> float:
    """Return the seconds of an AdamW step, from one on the largest parameter's like."""
    largest = max(parameters, key=lambda p: p.numel())
    like = nn.Parameter(torch.zeros_like(largest))
    optimizer, took = adamw([like], 1e-3), 0.0
    for _ in range(2):  # the first one makes the moments
        like.grad = torch.ones_like(like)
        started = time.perf_counter()
        optimizer.step()
        took = time.perf_counter() - started
    return took * trained / like.numel()
