"""The loop that teaches a copy of a model: documents of the world and general text in every step.

loss = sum w_t CE_t / sum w_t over the documents' tokens, w 1 at values and ends, `context_weight` elsewhere
       + general_weight * mean over general text of [ KL(base || model), or the cross-entropy ]

Values alone carry the loss by default (nearly): a document's other words are spelling and wordings, which the model
would learn before it learns who has what, and whose logits are a fifth of the arithmetic.

AdamW without weight decay in float32, linear warm-up, cosine decay to a tenth, clipped gradient. What a step reads is
a function of the seed and the step, so a run that is resumed ends with the same weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from features.factworld.planting.config import PlantConfig
from features.factworld.planting.lessons import Lesson
from sae_train.errors import ConfigError
from sae_train.lm.adapters import attach_adapter, merge_adapter
from sae_train.lm.generate import logits_at
from sae_train.lm.models import LanguageModel
from sae_train.quality.metrics import kl_divergence
from sae_train.rng import rng
from sae_train.run.checkpoints import load_checkpoint, restore, save_checkpoint, state_tensors
from sae_train.run.progress import Advance, no_advance
from sae_train.run.stopping import saving
from sae_train.text.packing import Batch, can_pack, lay_out
from sae_train.training.loss_watch import require_finite

CLIP_NORM = 1.0
LOG_EVERY = 5  # steps; reading a loss waits for the device


@dataclass(frozen=True)
class Course:
    """What is taught, and how.

    Attributes:
        base: The model that is taught; a copy of it changes.
        lessons: Documents in order, `batch_docs` of them in each step.
        windows: General text, of which each step draws some.
        config: Step size, weights and the like.
    """

    base: LanguageModel
    lessons: Sequence[Lesson]
    windows: Sequence[Sequence[int]]
    config: PlantConfig

    @property
    def n_steps(self) -> int:
        """Return the number of steps."""
        return -(-len(self.lessons) // self.config.batch_docs)

    def taught_at(self, step: int) -> Sequence[Lesson]:
        """Return the documents of a step."""
        return self.lessons[step * self.config.batch_docs : (step + 1) * self.config.batch_docs]

    def windows_at(self, step: int) -> list[Sequence[int]]:
        """Return the general text of a step, drawn without replacement as far as there is enough."""
        size = min(self.config.general_windows, len(self.windows))
        drawn = rng("planting.general", self.config.seed, step).choice(len(self.windows), size=size, replace=False)
        return [self.windows[i] for i in drawn]


def teach(
    course: Course,
    *,
    folder: Path | None = None,
    identity: str = "",
    resume: bool = False,
    advance: Advance = no_advance,
) -> LanguageModel:
    """Return a copy of the base that was taught.

    Args:
        course: What it is taught.
        folder: Where checkpoints lie; None keeps none.
        identity: What a run must be continued with.
        resume: Go on from a checkpoint, if there is one.
        advance: Called with the steps done and the losses, after a checkpoint that is due.

    Raises:
        NumericalError: A loss is not finite.
        ConfigError: No adapter, or no MLP matrices, in this architecture; at resume: something has changed.
        Terminated: The run was told to stop; where there is a folder, a checkpoint was saved first.
    """
    config = course.config
    lm = replace(course.base, model=copy.deepcopy(course.base.model).float().eval())
    adapter = None
    if config.train == "lora":
        adapter = attach_adapter(lm.model, rank=config.lora_rank, alpha=2 * config.lora_rank, seed=config.seed)
    parameters = trained_parameters(lm, config.train)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    fused = lm.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.step_size, weight_decay=0.0, fused=fused)
    packed = can_pack(course.base.model)
    step = 0
    found = load_checkpoint(folder, {"run": identity}) if resume and folder is not None else None
    if found is not None:
        restore(found[0], parameters, optimizer)
        step = found[1]
        advance(0, earlier=step)

    def save() -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(folder, state_tensors(parameters, optimizer), step=step, identity={"run": identity})

    with saving(save) if folder is not None else nullcontext() as stop_if_told:
        while step < course.n_steps:
            losses = _stepped(course, lm.model, optimizer, step, packed=packed)
            step += 1
            if step % config.save_every == 0 and step < course.n_steps:
                save()
            shown = _checked(losses, step) if step % LOG_EVERY == 0 or step == course.n_steps else {}
            advance(1, **shown)
            if stop_if_told is not None:
                stop_if_told()
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    if adapter is not None:
        merge_adapter(adapter)
    return lm


def _stepped(
    course: Course, model: nn.Module, optimizer: torch.optim.AdamW, step: int, *, packed: bool
) -> dict[str, Tensor]:
    """Take one step and return its losses."""
    optimizer.zero_grad(set_to_none=True)
    losses = _backward(course, model, step, packed=packed)
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], CLIP_NORM)
    for group in optimizer.param_groups:
        group["lr"] = course.config.step_size * schedule(step, course.n_steps, course.config.warmup_steps)
    optimizer.step()
    return losses


def trained_parameters(lm: LanguageModel, choice: str) -> dict[str, nn.Parameter]:
    """Return the parameters that change, by name; of tied ones, one.

    Raises:
        ConfigError: `mlp`, where the matrices of the MLPs are not known.
    """
    named = dict(lm.model.named_parameters())
    if choice == "full":
        return named
    if choice == "lora":
        return {name: p for name, p in named.items() if "lora_" in name}
    architecture = lm.architecture
    wanted = set(architecture.mlp_parameters())
    if not wanted:
        raise ConfigError(
            f"{architecture.name} has no MLP matrices to train",
            got="mlp",
            field="train",
            expected="MLPs whose matrices have a known name",
            try_="`train`=full",
        )
    return {name: p for name, p in named.items() if name in wanted}


def schedule(step: int, n_steps: int, warmup_steps: int) -> float:
    """Return the step size in units of its highest: linear warm-up, cosine decay to a tenth."""
    warmup = min(1.0, (step + 1) / max(1, warmup_steps))
    return warmup * (0.1 + 0.45 * (1 + math.cos(math.pi * step / n_steps)))


def _backward(course: Course, model: nn.Module, step: int, *, packed: bool) -> dict[str, Tensor]:
    """Add the gradients of one step, the world's first: of one half at a time the logits are in memory."""
    config, device = course.config, course.base.device
    lessons = course.taught_at(step)
    batch = lay_out([lesson.ids for lesson in lessons], device, packed=packed)
    aims = [(n, at) for n, lesson in enumerate(lessons) for at, w in enumerate(lesson.weights) if at and w > 0]
    weights = torch.tensor([lessons[n].weights[at] for n, at in aims], device=device)
    planted = (weights * _token_losses(model, batch, aims)).sum() / weights.sum()
    planted.backward()
    losses = {"planted": planted.detach()}
    if config.general_weight > 0:
        batch = lay_out(course.windows_at(step), device, packed=packed)
        if config.general == "loss":
            aims = [(n, at) for n, length in enumerate(batch.lengths) for at in range(1, length)]
            general = _token_losses(model, batch, aims).mean()
        else:
            places = batch.tokens()
            with torch.no_grad():
                aim = logits_at(course.base.model, batch, places).log_softmax(-1)
            said = logits_at(model, batch, places).log_softmax(-1)
            general = kl_divergence(aim, said).mean()
        (config.general_weight * general).backward()
        losses["general"] = general.detach()
    return losses


def _token_losses(model: nn.Module, batch: Batch, aims: Sequence[tuple[int, int]]) -> Float[Tensor, " n"]:
    """Return the cross-entropy (nats) of some tokens, given as number of the sequence and place in it, from 1 on."""
    logits = logits_at(model, batch, batch.places([(n, at - 1) for n, at in aims]))
    return F.cross_entropy(logits, batch.places(aims).of(batch.ids), reduction="none")


def _checked(losses: dict[str, Tensor], step: int) -> dict[str, float]:
    """Bring the losses to the host and stop on NaN or Inf."""
    values = {name: float(value) for name, value in losses.items()}
    require_finite(values, step, what="planting")
    return values
