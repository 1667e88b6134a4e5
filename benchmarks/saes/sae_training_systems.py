"""The TopK SAE trainers that benchmarks/saes/sae_training.py compares, each behind the same two calls.

Every system gets the same batches, scaled to a mean norm of sqrt(d_in), the same number of latents, k, step size, warm-up,
and a step size that falls over the last fifth (sparsify: from the warm-up on, as its trainer does). Everything else is its
own: initialisation, losses, what it does to gradients. Imports of peers happen inside the functions that need them.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_train.activations.store import ActivationStore
from sae_train.config import Arch, SaeTrainConfig
from sae_train.rng import seed_torch
from sae_train.training.jobs import prepare, train_step

FRAC_DECAY = 0.2
MOST_WARMUP_STEPS = 50  # and no more than a quarter of the run


@dataclass(frozen=True)
class Task:
    """What is trained."""

    path: str
    hook_point: str
    d_sae: int
    k: int
    batch: int
    steps: int
    peers_path: str | None = None
    dead_after_tokens: int | None = None
    device: str = "cpu"
    arch: Arch = "topk"  # of ours

    def config(self) -> SaeTrainConfig:
        """Return it as the workbench's config."""
        return SaeTrainConfig(
            hook_point=self.hook_point, arch=self.arch, k=self.k, d_sae=self.d_sae, batch_size=self.batch, tokens=self.steps * self.batch,
            lr_warmup_steps=min(MOST_WARMUP_STEPS, self.steps // 4), frac_lr_decay=FRAC_DECAY, frac_holdout=0.05, buffer_mb=64, dead_after_tokens=self.dead_after_tokens,
        )  # fmt: skip


@dataclass(frozen=True)
class System:
    """A trainer.

    Attributes:
        step: Trains on a batch in the model's own scale.
        reconstruct: Returns the reconstruction of rows in the model's own scale.
        notes: What is worth knowing about it.
    """

    step: Callable[[Tensor], object]
    reconstruct: Callable[[Tensor], Tensor]
    notes: str = ""


def ours(task: Task, store: ActivationStore, scale: float, lr: float) -> System:
    """Return the workbench."""
    config = task.config()
    state, plan = prepare(
        store, config, ~store.holdout_rows(config.frac_holdout, config.seed), torch.device(task.device)
    )
    assert (plan.scale, plan.lr) == (scale, lr)

    def reconstruct(acts: Tensor) -> Tensor:
        return state.sae(acts * plan.scale) / plan.scale

    notes = f"search in {state.sae.search_dtype}" if task.arch == "topk" else task.arch
    return System(lambda acts: train_step(state, acts, config, plan), reconstruct, notes)


def saelens(task: Task, store: ActivationStore, scale: float, lr: float, **settings: Any) -> System:
    """Return SAELens' SAETrainer."""
    from sae_lens import LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sparse = {"use_sparse_activations": settings.pop("use_sparse_activations", False)}
    cfg = TopKTrainingSAEConfig(
        d_in=store.d_in(task.hook_point), d_sae=task.d_sae, k=task.k, device=task.device, **sparse
    )
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=task.steps * task.batch, train_batch_size_samples=task.batch, lr=lr, lr_end=lr / 10, device=task.device,
            lr_warm_up_steps=task.config().lr_warmup_steps, lr_decay_steps=int(FRAC_DECAY * task.steps),
            logger=LoggingConfig(log_to_wandb=False), **settings,
        ),
        TopKTrainingSAE(cfg),
        iter(()),
    )  # fmt: skip

    def step(acts: Tensor) -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(acts * scale)
        trainer.n_training_steps += 1

    return System(step, lambda acts: trainer.sae.eval()(acts * scale) / scale)


def dictionary_learning(task: Task, store: ActivationStore, scale: float, lr: float) -> System:
    """Return dictionary_learning's TopKTrainer; the language-model library its package imports is not called here."""
    for name, attribute in (("nnsight", "LanguageModel"), ("zstandard", "ZstdDecompressor")):
        if name not in sys.modules:
            stand_in = types.ModuleType(name)
            setattr(stand_in, attribute, object)
            sys.modules[name] = stand_in
    from dictionary_learning.trainers.top_k import TopKTrainer

    config = task.config()
    trainer = TopKTrainer(
        steps=task.steps, activation_dim=store.d_in(task.hook_point), dict_size=task.d_sae, k=task.k, layer=0,
        lm_name="none", lr=lr, warmup_steps=config.lr_warmup_steps,
        decay_start=int((1 - FRAC_DECAY) * task.steps), seed=0, device=task.device,
    )  # fmt: skip
    numbers = iter(range(10**9))
    return System(
        lambda acts: trainer.update(next(numbers), acts * scale), lambda acts: trainer.ae(acts * scale) / scale
    )


def sparsify(task: Task, store: ActivationStore, scale: float, lr: float) -> System:
    """Return sparsify's SparseCoder; its Trainer wants a language model, so the steps of its loop stand here."""
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder
    from transformers import get_linear_schedule_with_warmup

    seed_torch("benchmark.systems.weights", 0)
    coder = SparseCoder(
        store.d_in(task.hook_point),
        SparseCoderConfig(num_latents=task.d_sae, k=task.k),
        task.device,
        dtype=torch.float32,
    )
    optimizer = torch.optim.Adam(coder.parameters(), lr=lr)
    schedule = get_linear_schedule_with_warmup(optimizer, task.config().lr_warmup_steps, task.steps)
    since_fired = torch.zeros(task.d_sae, dtype=torch.long, device=task.device)
    began: list[bool] = []

    def step(acts: Tensor) -> None:
        x = acts * scale
        if not began:
            coder.b_dec.data = x.mean(0)
            began.append(True)
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, total_variance=(x - x.mean(0)).pow(2).sum())
        did_fire = torch.zeros(task.d_sae, dtype=torch.bool, device=task.device)
        did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # its loop logs it at every step
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        since_fired.add_(len(x))
        since_fired[did_fire] = 0

    return System(step, lambda acts: coder(acts * scale).sae_out / scale)


SYSTEMS: dict[str, Callable[..., System]] = {
    "ours": ours,
    "ours-batch-topk": lambda task, *a: ours(replace(task, arch="batch-topk"), *a),
    "saelens": saelens,
    "saelens-bf16": lambda *a: saelens(*a, autocast=True),
    "saelens-sparse": lambda *a: saelens(*a, use_sparse_activations=True),
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}


def build(name: str, task: Task, store: ActivationStore) -> tuple[System, int]:
    """Build one system; return it with the peak memory before that, imports done, in MB."""
    import resource

    if task.peers_path is not None:
        sys.path.append(str(Path(task.peers_path).resolve()))
    config = task.config()
    _, plan = prepare(store, config, ~store.holdout_rows(config.frac_holdout, config.seed), torch.device("cpu"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return SYSTEMS[name](task, store, plan.scale, plan.lr), before
