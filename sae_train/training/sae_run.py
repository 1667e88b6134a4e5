"""The run of one SAE: its folder, checkpoints, log and result. The loop over steps is in `jobs.py`.

Of several processes that share each batch, the first writes and evaluates, and the others wait at the next sum.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.intervals import flat
from sae_train.quality.evaluate import store_quality
from sae_train.quality.metrics import SaeQuality
from sae_train.run.checkpoints import CHECKPOINT, load_checkpoint, restore, save_checkpoint, state_tensors
from sae_train.run.processes import Processes
from sae_train.run.runs import Run, jsonable, write_json
from sae_train.saes.base import Sae
from sae_train.saes.importers import source_identity
from sae_train.saes.interop import save_sae
from sae_train.training.loss_watch import LossWatch
from sae_train.training.state import prepare
from sae_train.training.step import lr_factor, train_step

LOG_EVERY = 25
SHOWN = ("step", "fvu", "mse", "l0", "frac_dead")  # beside the progress, where the loss has them
NOT_IN_IDENTITY = ("eval_every", "save_every")  # how often to evaluate or save decides nothing


class Training:
    """One SAE in training.

    Args:
        store: The rows (`joined_rows`).
        config: The run's.
        out: Its folder.
        held_out: Rows that are not trained on.
        where: The device.
        processes: The processes that share each batch.
        sample: What statistics are taken from, or None.
        resume: Whether to take up a checkpoint that is there.
        wandb: Project to log to as well, or None.

    Raises:
        ConfigError: The config or the store has changed since the checkpoint.
        NumericalError: The activations cannot be learned.
    """

    def __init__(
        self,
        store: ActivationStore,
        config: SaeTrainConfig,
        out: Path,
        *,
        held_out: np.ndarray,
        where: torch.device,
        processes: Processes,
        sample: Tensor | None,
        resume: bool,
        wandb: str | None,
    ) -> None:
        self.store, self.config, self.out, self.held_out = store, config, out, held_out
        self.where, self.processes, self.wandb = where, processes, wandb
        self.state, self.plan = prepare(store, config, ~held_out, where, sample=sample)
        if resume:
            self._continue()
        if processes.count > 1:
            self._agree()
        self.first_step = self.state.step
        self.watch, self._terms, self._looked_at = LossWatch(out), {}, -1
        self.run: Run | None = None

    @property
    def is_done(self) -> bool:
        """Return whether all steps are done."""
        return self.state.step >= self.plan.n_steps

    def open_folder(self) -> None:
        """Write what the folder says before the first step."""
        if self.processes.is_first:
            inputs = {"activations": self.store.identity(), "device": str(self.where)}
            inputs |= {"init": source_identity(self.config.init)} if self.config.init is not None else {}
            inputs |= {"processes": self.processes.count} if self.processes.count > 1 else {}
            self.run = Run(self.out, config=self.config, command="train-sae", inputs=inputs, wandb=self.wandb)

    def evaluate_if_due(self) -> None:
        """Measure quality on held-out documents, every so many steps."""
        if self.config.eval_every and self.state.step and self.state.step % self.config.eval_every == 0 and self.run:
            quality = folded_quality(self.state.sae, self.plan.scale, self.store, self.config.hook_point, self.held_out)
            tokens = self.state.step * self.config.batch_size
            self.run.log(step=self.state.step, tokens=tokens, split="heldout", **flat(quality))

    def save_if_due(self) -> None:
        """Write a checkpoint, every so many steps."""
        if self.state.step % self.config.save_every == 0:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, if there was a step since the last start and losses and weights are sound."""
        if self.state.step == self.first_step:
            return
        self._look()
        self.watch.check_weights(self.state.tensors(), self.state.step)
        self.processes.min_(self.state.tokens_since_fired)
        if self.processes.is_first:
            tensors = state_tensors(self.state.tensors(), self.state.optimizer) | self.state.extras()
            save_checkpoint(self.out, tensors, step=self.state.step, identity=self._identity())

    def train(self, acts: Tensor) -> dict[str, int | float]:
        """Take one step with this process's rows of a batch, in the model's own scale; return what is to be shown."""
        self._terms = train_step(self.state, acts, self.config, self.plan, self.processes)
        step = self.state.step
        if step == self.first_step + 1:
            self._look()
        if step % LOG_EVERY == 0 or self.is_done:
            values = self._look()
            if self.run:
                lr = self.plan.lr * lr_factor(step - 1, self.config, self.plan.n_steps)
                self.run.log(step=step, tokens=step * self.config.batch_size, lr=lr, **values)
                return {name: value for name, value in {"step": step, **values}.items() if name in SHOWN}
        return {}

    def finish(self, seconds: float) -> dict[str, Any]:
        """Fold the scale in, write the SAE folder, evaluate it; return the result (nothing in the other processes)."""
        state, config, out = self.state, self.config, self.out
        self.watch.check_weights(state.tensors(), state.step)
        if self.run is None:
            return {}
        state.sae.fold_scale(self.plan.scale)
        metadata = {"model_name": str(self.store.attrs["model"])}
        metadata |= {"other_model_name": str(self.store.attrs["other_model"])} if len(state.sae.sides) > 1 else {}
        quality = store_quality(state.sae, self.store, config.hook_point, self.held_out)
        n_steps = state.step - self.first_step
        speed = n_steps * config.batch_size / seconds if n_steps and seconds > 0 else 0.0
        trained = {"steps": state.step, "trained_tokens": state.step * config.batch_size}
        result = {**flat(quality), "tokens_per_s": speed, "d_sae": state.sae.d_sae, **trained}
        write_json(out / "metrics.json", result)
        save_sae(state.sae, out, hook_point=config.hook_point, metadata=metadata)
        # Last: a folder whose record says that the run has not ended is refused.
        self.run.finish(result=result, plan=asdict(self.plan) | {"search_dtype": state.sae.search_dtype})
        (out / CHECKPOINT).unlink(missing_ok=True)
        return result

    def _look(self) -> dict[str, float]:
        """Bring the last step's terms to the host, those of all processes added up, and stop on bad ones."""
        if self._looked_at != self.state.step:
            names, self._looked_at = list(self._terms), self.state.step
            values = torch.stack([value.float() for value in self._terms.values()])
            self.processes.sum_(values)
            self._values = dict(zip(names, values.tolist(), strict=True))
            self.watch.check(self._values, self.state.step)
        return self._values

    def _identity(self) -> dict[str, str]:
        """Return what must be unchanged for a checkpoint to be continued."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in NOT_IN_IDENTITY}
        store = {**self.store.identity(), "d_in": self.store.d_in(self.config.hook_point)}
        return {
            "config": json.dumps(jsonable(settings), sort_keys=True),
            "store": json.dumps(jsonable(store), sort_keys=True),
            "number of processes": str(self.processes.count),
        }

    def _agree(self) -> None:
        """Start from what the first process has; they differ where a timing chose, or a library on another machine."""
        extras = self.state.extras()
        self.processes.copy_from_first(*(value.detach() for value in self.state.tensors().values()), *extras.values())
        self.state.take_extras(extras)

    def _continue(self) -> None:
        """Restore the checkpoint, if there is one."""
        found = load_checkpoint(self.out, self._identity())
        if found is not None:
            tensors, self.state.step = found
            restore(tensors, self.state.tensors(), self.state.optimizer)
            self.state.take_extras(tensors)


def folded_quality(sae: Sae, scale: float, store: ActivationStore, hook_point: str, use: np.ndarray) -> SaeQuality:
    """Evaluate the SAE as it would be saved now; the training state is left as it is."""
    changes = 3 if sae.scale_is_in_weights else 2  # an SAE's W_* stay as they are
    before = {name: value.clone() for name, value in sae.state_dict().items() if value.ndim < changes}
    sae.fold_scale(scale)
    quality = store_quality(sae, store, hook_point, use)
    sae.load_state_dict(before, strict=False)
    return quality
