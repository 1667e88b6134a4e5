"""Train one SAE on one hook point of a store: one loop, all resumable state in one dataclass.

Leaves in the run folder: `cfg.json` + `sae_weights.safetensors` (scale folded in), `config.json`, `run.json`,
`metrics.jsonl`, `metrics.json`; while it runs, `checkpoint.safetensors` (state in the training scale).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sae_train.activations.sampler import ShuffledBatches, sample_rows
from sae_train.activations.store import ActivationStore
from sae_train.centers import CENTERS
from sae_train.checkpoints import CHECKPOINT, load_checkpoint, restore, save_checkpoint, state_tensors
from sae_train.config import SaeTrainConfig
from sae_train.errors import NumericalError
from sae_train.evaluate import store_quality
from sae_train.metrics import SaeQuality, dead_latents
from sae_train.runs import Run, jsonable, resolve_device, write_json
from sae_train.saes import sae_from_config
from sae_train.saes.base import Sae, StepContext
from sae_train.saes.interop import save_sae

STATISTICS_ROWS = 32_768
THRESHOLD_ROWS = 2_048  # of those, for thresholds: they take (rows, d_sae) numbers
SEARCH_ROWS = 512  # of those, to try searches on
LOG_EVERY = 25
LOOKS_PER_DEATH, MOST_STEPS_UNSEEN = 8, 16  # who is dead is looked up this often in `dead_after_tokens`, or in steps
ADAM_BETAS = (0.9, 0.999)


@dataclass
class TrainState:
    """Everything that changes while training: what a checkpoint holds."""

    sae: Sae
    optimizer: torch.optim.Adam
    tokens_since_fired: Tensor
    is_dead: Tensor
    dead: Tensor  # the same by number
    step: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return the SAE's parameters and buffers by name."""
        return self.sae.state_dict(keep_vars=True)

    def zero_grad(self) -> None:
        """Forget the last gradients, and free their memory."""
        self.sae.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)

    def hand_over_gradients(self) -> None:
        """Show the optimizer the SAE's gradients, in the order in which they lie in memory."""
        (group,) = self.optimizer.param_groups
        for own, as_stored in zip(self.sae.parameters(), group["params"], strict=True):
            as_stored.grad = own.grad if own is as_stored or own.grad is None else own.grad.T

    def adam_step(self, lr: float) -> None:
        """Move the weights by the gradient brought to length one.

        Adam forgets squared gradients over 1,000 steps: without this, the long ones of the beginning keep the later
        steps short (held-out FVU after 120 steps on SmolLM2's block 9: 0.26 instead of 0.30).
        """
        (group,) = self.optimizer.param_groups
        group["lr"] = lr
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        length = torch.nn.utils.get_total_norm(gradients)
        length = length.clamp_min(torch.finfo(length.dtype).tiny)
        if group["fused"]:
            # As a GradScaler does: the fused step divides by it as it reads.
            self.optimizer.grad_scale = length  # pyright: ignore[reportAttributeAccessIssue]
        else:
            for gradient in gradients:
                gradient.div_(length)
        self.optimizer.step()

    def extras(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds beside parameters, buffers and optimizer."""
        in_bfloat16 = torch.tensor(self.sae.search_dtype == "bfloat16")  # chosen by a timing: it is not drawn again
        return {
            "tokens_since_fired": self.tokens_since_fired,
            "is_dead": self.is_dead,
            "search_in_bfloat16": in_bfloat16,
        }

    def take_extras(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `extras` returned."""
        self.tokens_since_fired.copy_(tensors["tokens_since_fired"])
        self._set_dead(tensors["is_dead"].to(self.is_dead.device))
        self.sae.search_dtype = "bfloat16" if tensors["search_in_bfloat16"] else "float32"

    def find_dead(self, dead_after_tokens: int) -> None:
        """Look which latents are dead; the only thing in a step that waits for the device."""
        self._set_dead(dead_latents(self.tokens_since_fired, dead_after_tokens))

    def _set_dead(self, is_dead: Tensor) -> None:
        self.is_dead, self.dead = is_dead, is_dead.nonzero().flatten()


@dataclass(frozen=True)
class Plan:
    """What follows from config and store before the first step.

    Attributes:
        n_steps: Steps of the run.
        lr: Adam's step size at its highest.
        scale: What activations are multiplied by.
        dead_after_tokens: A latent is dead when it has not fired in that many.
        dead_every: Steps between looks at who is dead: each one waits for the device.
        n_train_rows: Rows that are not held out.
    """

    n_steps: int
    lr: float
    scale: float
    dead_after_tokens: int
    dead_every: int
    n_train_rows: int


def train_sae(
    store: ActivationStore,
    config: SaeTrainConfig,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    wandb: str | None = None,
    advance: Callable[[int, dict[str, float]], None] = lambda n, terms: None,
    log: Callable[[dict[str, float]], None] = lambda values: None,
) -> dict[str, Any]:
    """Train, evaluate on held-out documents, and leave an SAE folder at `out`.

    Returns:
        `fvu, l0, frac_dead, l2_ratio, n_tokens, tokens_per_s, steps, trained_tokens`.

    Raises:
        ConfigError: k > d_sae, an empty split, or a changed config at resume.
        NumericalError: The loss is not finite; the last checkpoint stays.
    """
    where = resolve_device(device)
    held_out = store.holdout_rows(config.holdout_share, config.seed)
    state, plan = prepare(store, config, ~held_out, where)
    if resume:
        _continue(state, config, store, out)
    run = Run(
        out,
        config=config,
        command="train-sae",
        inputs={"activations": store.identity(), "device": str(where)},
        wandb=wandb,
    )
    first_step, started = state.step, time.monotonic()
    batches = ShuffledBatches(
        store,
        config.hook_point,
        ~held_out,
        batch_size=config.batch_size,
        seed=config.seed,
        buffer_mb=config.buffer_mb,
        pin_memory=where.type == "cuda",
    ).from_batch(state.step)
    while True:
        if config.eval_every and state.step and state.step % config.eval_every == 0:
            quality = _folded_quality(state.sae, plan.scale, store, config.hook_point, held_out)
            tokens = state.step * config.batch_size
            run.log(step=state.step, tokens=tokens, split="heldout", **asdict(quality))
        if state.step > first_step and state.step % config.save_every == 0:
            tensors = state_tensors(state.tensors(), state.optimizer)
            _check_weights(state, out)
            save_checkpoint(out, tensors | state.extras(), step=state.step, identity=_identity(config, store))
        if state.step >= plan.n_steps:
            break
        terms = train_step(state, next(batches).to(where, non_blocking=True), config, plan)
        advance(config.batch_size, {})
        if state.step % LOG_EVERY == 0 or state.step == plan.n_steps:
            values = _checked(terms, state.step, out)
            lr = plan.lr * lr_factor(state.step - 1, config, plan.n_steps)
            run.log(step=state.step, tokens=state.step * config.batch_size, lr=lr, **values)
            log({"step": state.step, **values})
    seconds = time.monotonic() - started
    _check_weights(state, out)
    state.sae.fold_scale(plan.scale)
    save_sae(state.sae, out, hook_point=config.hook_point, metadata={"model_name": str(store.attrs["model"])})
    quality = store_quality(state.sae, store, config.hook_point, held_out)
    speed = (state.step - first_step) * config.batch_size / seconds if state.step > first_step else 0.0
    trained = {"steps": state.step, "trained_tokens": state.step * config.batch_size}
    result = {**asdict(quality), "tokens_per_s": speed, "d_sae": state.sae.d_sae, **trained}
    write_json(out / "metrics.json", result)
    run.finish(result=result, plan=asdict(plan) | {"search_dtype": state.sae.search_dtype})
    (out / CHECKPOINT).unlink(missing_ok=True)
    return result


def prepare(
    store: ActivationStore, config: SaeTrainConfig, use: np.ndarray, device: torch.device
) -> tuple[TrainState, Plan]:
    """Measure mean and scale on a sample, draw the weights, count the steps."""
    sample = sample_rows(store, config.hook_point, use, n_rows=STATISTICS_ROWS, seed=config.seed)
    mean_norm = float(sample.norm(dim=1).mean())
    if not math.isfinite(mean_norm) or float(sample.var(dim=0, unbiased=False).sum()) == 0:
        raise NumericalError(
            f"the activations at {config.hook_point} cannot be learned",
            got=f"mean norm {mean_norm}, variance {float(sample.var(dim=0, unbiased=False).sum())}",
            expected="finite activations that vary",
        )
    d_in, n_rows = sample.shape[1], int(use.sum())
    scale = d_in**0.5 / mean_norm
    sae = sae_from_config(config, d_in)
    d_sae = sae.d_sae
    sae.init_weights(CENTERS[config.b_dec_init](sample) * scale, config.seed)
    sae.init_thresholds(sample[:THRESHOLD_ROWS] * scale)
    sae.to(device)
    sae.choose_search_dtype((sample[:SEARCH_ROWS] * scale).to(device), config.search_dtype)
    lr = config.lr if config.lr is not None else 2e-4 / (d_sae / 2**14) ** 0.5
    n_steps = max(1, math.ceil((config.tokens or n_rows) / config.batch_size))
    dead_after = config.dead_after_tokens or max(config.batch_size, n_steps * config.batch_size // 10)
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(map(in_memory_order, sae.parameters()), lr=lr, betas=ADAM_BETAS, fused=fused)
    since, is_dead = (torch.zeros(d_sae, dtype=kind, device=device) for kind in (torch.int64, torch.bool))
    state = TrainState(sae, optimizer, since, is_dead, dead=is_dead.nonzero().flatten())
    dead_every = min(MOST_STEPS_UNSEEN, max(1, dead_after // (LOOKS_PER_DEATH * config.batch_size)))
    return state, Plan(n_steps, lr, scale, dead_after, dead_every, n_rows)


def in_memory_order(parameter: nn.Parameter) -> nn.Parameter:
    """Return the parameter, or where its columns lie together in memory, its transpose: the same numbers.

    Fused Adam copies whatever is not contiguous, every time: 20 ms instead of 5 for 3.3 million parameters.
    """
    return parameter if parameter.is_contiguous() else nn.Parameter(parameter.data.T)


def lr_factor(step: int, config: SaeTrainConfig, n_steps: int) -> float:
    """Return the share of the full step size at a step: linear warm-up, constant, linear decay to zero."""
    warmup = min(1.0, (step + 1) / max(1, min(config.lr_warmup_steps, n_steps)))
    decay_steps = max(1, int(config.lr_decay_share * n_steps))
    return min(warmup, (n_steps - step) / decay_steps, 1.0)


def train_step(state: TrainState, acts: Tensor, config: SaeTrainConfig, plan: Plan) -> dict[str, Tensor]:
    """Advance the state by one batch; return the terms of the loss, still on the device."""
    if state.step % plan.dead_every == 0:
        state.find_dead(plan.dead_after_tokens)
    context = StepContext(
        is_dead=state.is_dead,
        dead_latents=state.dead,
        progress=state.step / plan.n_steps,
        auxk_alpha=config.auxk_alpha,
        l1_coefficient=config.l1_coefficient,
        l1_warmup_share=config.l1_warmup_share,
    )
    result = state.sae.training_loss(acts * plan.scale, context)
    state.zero_grad()
    result.loss.backward()
    state.sae.project_decoder_gradient()
    state.hand_over_gradients()
    state.adam_step(plan.lr * lr_factor(state.step, config, plan.n_steps))
    state.sae.normalize_decoder()
    state.tokens_since_fired += len(acts)
    state.tokens_since_fired.masked_fill_(result.fired, 0)
    state.step += 1
    return {"loss": result.loss.detach(), **result.terms, "frac_dead": context.is_dead.float().mean()}


def _checked(terms: dict[str, Tensor], step: int, out: Path) -> dict[str, float]:
    """Bring the terms to the host and stop on NaN or Inf."""
    values = {k: float(v) for k, v in terms.items()}
    if not all(map(math.isfinite, values.values())):
        raise NumericalError(
            f"training diverged at step {step}",
            got=", ".join(f"{k} {v:.4g}" for k, v in values.items()),
            expected=f"finite losses; the last checkpoint in {out} stays",
            try_="a smaller --lr",
        )
    return values


def _check_weights(state: TrainState, out: Path) -> None:
    """Stop before NaN or Inf replaces a good checkpoint; the losses are only looked at when they are logged."""
    bad = [name for name, value in state.tensors().items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise NumericalError(
            f"training diverged before step {state.step}",
            got=f"NaN or Inf in {', '.join(bad)}",
            expected=f"finite weights; the last checkpoint in {out} stays",
            try_="a smaller --lr",
        )


def _folded_quality(sae: Sae, scale: float, store: ActivationStore, hook_point: str, use: np.ndarray) -> SaeQuality:
    """Evaluate the SAE as it would be saved now; the training state is left as it is."""
    before = {name: value.clone() for name, value in sae.state_dict().items() if value.ndim < 2}  # W_* stay as they are
    sae.fold_scale(scale)
    quality = store_quality(sae, store, hook_point, use)
    sae.load_state_dict(before, strict=False)
    return quality


def _identity(config: SaeTrainConfig, store: ActivationStore) -> dict[str, str]:
    """What a checkpoint may be continued with; how often to evaluate or save decides nothing."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("eval_every", "save_every")}
    return {
        "config": json.dumps(jsonable(settings), sort_keys=True),
        "store": json.dumps(jsonable(store.identity()), sort_keys=True),
    }


def _continue(state: TrainState, config: SaeTrainConfig, store: ActivationStore, out: Path) -> None:
    """Take up the checkpoint, if there is one."""
    found = load_checkpoint(out, _identity(config, store))
    if found is not None:
        tensors, state.step = found
        restore(tensors, state.tensors(), state.optimizer)
        state.take_extras(tensors)
