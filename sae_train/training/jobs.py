"""Train one SAE, or several that share batches, on an activation store. The loop over steps is here.

Leaves in each run folder: `cfg.json` + `sae_weights.safetensors` (scale folded in), `config.json`, `run.json`,
`metrics.jsonl`, `metrics.json`; while it runs, `checkpoint.safetensors` (state in the training scale).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sae_train.activations.joined import joined_rows, row_widths
from sae_train.activations.sampler import ShuffledBatches
from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.machine.memory import require_memory
from sae_train.renamed import ADDED, with_current_names
from sae_train.run.processes import ALONE, Processes
from sae_train.run.progress import Advance, no_advance
from sae_train.run.resuming import check_unchanged
from sae_train.run.runs import Run, jsonable, resolve_device, write_json
from sae_train.run.stopping import saving
from sae_train.saes import sae_from_config
from sae_train.saes.base import Sae
from sae_train.saes.topk_search.memory import SCRATCH_BYTES
from sae_train.text_files import read_json
from sae_train.training.grid import SaeJob
from sae_train.training.initial import check_initial
from sae_train.training.sae_run import LOG_EVERY, NOT_IN_IDENTITY, Training
from sae_train.training.state import Plan, TrainState, in_memory_order, prepare, statistics_sample
from sae_train.training.step import lr_factor, train_step

__all__ = ["LOG_EVERY", "Plan", "TrainState", "in_memory_order", "lr_factor", "prepare", "train_step"]

ADAM_BYTES = 3 * 4  # a parameter and its two moments, float32


def train_one(
    store: ActivationStore,
    config: SaeTrainConfig,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    wandb: str | None = None,
    advance: Advance = no_advance,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train one SAE, evaluate it on held-out documents, and leave an SAE folder at `out`.

    Args:
        store: The activations.
        config: What to train.
        out: The SAE folder.
        device: Of the tensors.
        resume: Continue from the checkpoint in `out`, if there is one, to the same weights.
        wandb: Project to log to as well.
        advance: Called after each step with its rows and the terms logged last; before the first step with those that
            an earlier run trained on.
        processes: Processes that each take a part of every batch. The result is, but for rounding, that of one.

    Returns:
        `fvu, l0, frac_dead, l2_ratio, n_tokens, tokens_per_s, steps, trained_tokens`; of several processes, in all.

    Raises:
        ConfigError: k > d_sae, an empty split, a batch that cannot be divided, or a changed config at resume.
        MemoryShortError: Weights and optimizer do not fit.
        NumericalError: The loss is not finite or explodes, or all latents are dead; the last checkpoint stays.
    """
    job = SaeJob(config, out)
    where = check_jobs([job], store, device=device, processes=processes, spread="batch")
    (result,) = _train_together(store, [job], where, processes, resume=resume, wandb=wandb, advance=advance)
    processes.wait()
    # Only the first process evaluates; the others read what it wrote, so that all return the same.
    return result or read_json(out / "metrics.json")


def train_jobs(
    store: ActivationStore,
    jobs: Sequence[SaeJob],
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    wandb: str | None = None,
    advance: Advance = no_advance,
    processes: Processes = ALONE,
    spread: str = "auto",
) -> list[dict[str, Any]]:
    """Train several SAEs, each to the weights it would have alone, and leave a folder for each.

    Those at one hook point, with the same rows in the same order, are trained side by side on the same batches: the
    store is read once for them. Hook points, which lie apart on disk, come one after the other, so that no more SAEs
    are in memory than one hook point has.

    Args:
        store: The activations.
        jobs: What to train, and where it goes.
        out: The folder that holds all of them; its `run.json` and `metrics.json` are about the whole. A single SAE
            is trained by `train_one`, into the folder of its job.
        device: As in `train_one`.
        resume: Finished SAEs are left alone, others continue.
        wandb: As in `train_one`; each SAE is a run of its own.
        advance: As in `train_one`, once for every SAE and step; earlier rows once for every hook point.
        processes: Processes that share the work.
        spread: What they divide: `saes` (each trains some of them alone), `batch` (each takes a part of every batch),
            or `auto`: SAEs, if there are at least as many as processes.

    Returns:
        What `train_one` returns, in the order of the jobs; `tokens_per_s` is that of the SAEs side by side. Of several
        processes, the first has it.

    Raises:
        ConfigError, MemoryShortError, NumericalError: As `train_one`, with nothing written where a config is to blame.
    """
    where = check_jobs(jobs, store, device=device, processes=processes, spread=spread)
    how = {"resume": resume, "wandb": wandb, "advance": advance}
    if len(jobs) == 1:
        return [train_one(store, jobs[0].config, jobs[0].out, device=device, processes=processes, **how)]
    own, sharing = (jobs, processes)
    if _apart(jobs, processes, spread):
        own, sharing = jobs[processes.part(len(jobs))], ALONE
    run = None
    if processes.is_first:
        inputs = {"activations": store.identity(), "device": str(where), "processes": processes.count}
        run = Run(out, config={"saes": [job.config for job in jobs]}, command="train-sae", inputs=inputs)
    processes.wait()
    for group in _groups(own):
        _train_together(store, group, where, sharing, **how)
    processes.wait()
    if run is None:
        return []
    results = [read_json(job.out / "metrics.json") for job in jobs]
    named = [{"out": job.out.name, **result} for job, result in zip(jobs, results, strict=True)]
    write_json(out / "metrics.json", {"saes": named})
    run.finish(result={"saes": named})
    return results


def _train_together(
    store: ActivationStore,
    jobs: Sequence[SaeJob],
    where: torch.device,
    processes: Processes,
    *,
    resume: bool,
    wandb: str | None,
    advance: Advance,
) -> list[dict[str, Any]]:
    """Train the SAEs that see the same batches; return their results, empty where a process wrote none."""
    first = jobs[0].config
    store = joined_rows(store, first.target_hook_point)
    held_out = store.holdout_rows(first.frac_holdout, first.rows_seed)
    finished = {job.out: _finished_result(job) for job in jobs} if resume else {}
    waiting = [job for job in jobs if not finished.get(job.out)]
    sample = statistics_sample(store, first, ~held_out) if waiting else None
    common = {"held_out": held_out, "where": where, "processes": processes, "sample": sample, "wandb": wandb}
    # All are built before any folder is opened: a config that is refused leaves nothing on disk.
    trainings = {j.out: Training(store, j.config, j.out, **common, resume=resume) for j in waiting}
    # The sample is large and not needed during training.
    del sample, common
    for training in trainings.values():
        training.open_folder()
    n_before = sum(result["trained_tokens"] for result in finished.values() if result)
    n_before += sum(training.first_step * training.config.batch_size for training in trainings.values())
    if n_before:
        advance(0, earlier=n_before)
    seconds = _run(list(trainings.values()), store, processes, advance) if trainings else 0.0
    # Popped, so that each SAE's memory is free again once it is saved.
    return [finished.get(job.out) or trainings.pop(job.out).finish(seconds) for job in jobs]


def _run(trainings: list[Training], store: ActivationStore, processes: Processes, advance: Advance) -> float:
    """Take all steps of SAEs that see the same batches; return the seconds that took."""
    config, where, started = trainings[0].config, trainings[0].where, time.monotonic()
    # After an interruption one SAE may be behind the others; it catches up, then all share the batches again.
    first_step = min(training.state.step for training in trainings)
    batches = ShuffledBatches(
        store,
        config.hook_point,
        ~trainings[0].held_out,
        batch_size=config.batch_size,
        seed=config.rows_seed,
        buffer_mb=config.buffer_mb,
        pin_memory=where.type == "cuda",
    ).from_batch(first_step)
    part = processes.part(config.batch_size)
    shown: dict[str, int | float] = {}
    with saving(lambda: _save(trainings), processes) as stop_if_told:
        for step in itertools.count(first_step):
            due = [training for training in trainings if training.state.step == step]  # a resumed one may be ahead
            for training in due:
                training.evaluate_if_due()
                training.save_if_due()
            # Only here, so that the state after the last step is evaluated and saved as well.
            if all(training.is_done for training in trainings):
                break
            acts = next(batches)[part].to(where, non_blocking=True)
            for training in due:
                if not training.is_done:
                    shown |= training.train(acts)
                    advance(config.batch_size, **shown)
            stop_if_told()
    return time.monotonic() - started


def _save(trainings: Iterable[Training]) -> None:
    """Write a checkpoint of every SAE."""
    for training in trainings:
        training.save()


def _groups(jobs: Iterable[SaeJob]) -> list[list[SaeJob]]:
    """Return the jobs that see the same batches together, in their order."""
    found: dict[tuple[Any, ...], list[SaeJob]] = {}
    for job in jobs:
        c = job.config
        # What decides which rows come in which order, and nothing else.
        found.setdefault(
            (c.hook_point, c.target_hook_point, c.rows_seed, c.frac_holdout, c.batch_size, c.buffer_mb), []
        ).append(job)
    return list(found.values())


def _finished_result(job: SaeJob) -> dict[str, Any] | None:
    """Return the result of a run that came to its end; None where there is none.

    Raises:
        ConfigError: It was trained with other settings.
    """
    record, result = job.out / "run.json", job.out / "metrics.json"
    if not result.is_file() or read_json(record).get("ended") is None:
        return None
    then = {**ADDED, **with_current_names(read_json(job.out / "config.json"))}
    now = {k: v for k, v in jsonable(asdict(job.config)).items() if k not in NOT_IN_IDENTITY}
    check_unchanged(job.out, then, now)
    return read_json(result)


def _apart(jobs: Sequence[SaeJob], processes: Processes, spread: str) -> bool:
    """Return whether each process trains SAEs of its own."""
    return spread == "saes" or (spread == "auto" and len(jobs) >= max(2, processes.count))


def check_jobs(
    jobs: Sequence[SaeJob], store: ActivationStore, *, device: str, processes: Processes = ALONE, spread: str = "auto"
) -> torch.device:
    """Refuse what cannot be trained, before anything is written; return the device.

    Raises:
        ConfigError: k > d_sae, a batch that cannot be divided, or a device that processes would have to share.
        ConfigError, InputError, ShapeError: The SAE to go on from is missing, of another kind, or of another size.
        MemoryShortError: Weights and optimizer do not fit.
    """
    where = resolve_device(processes.own_device(device))
    if spread == "saes" and len(jobs) < processes.count:
        raise ConfigError(
            "some processes would have nothing to do",
            got=f"{len(jobs)} SAEs for {processes.count} processes, saes",
            field="spread",
            expected="at least one SAE for each, or `spread`=batch",
        )
    n_sharing = 1 if _apart(jobs, processes, spread) else processes.count
    for job in jobs:
        if job.config.init is not None:
            check_initial(job.config, _empty_sae(job, store))
        n_parts = job.config.accumulate * n_sharing
        if job.config.batch_size % n_parts:
            raise ConfigError(
                "the batch cannot be divided evenly",
                got=f"{job.config.batch_size} (`batch_size`), {n_sharing} processes of {job.config.accumulate} "
                "micro batches (`accumulate`)",
                expected=f"a multiple of {n_parts}",
            )
    # The largest group, not the sum: hook points are trained one after the other.
    needed = max((training_bytes(group, store) for group in _groups(jobs)), default=0)
    try_ = "fewer SAEs at a hook point at a time, or a smaller `expansion`"
    require_memory(needed, where, what="for these SAEs", try_=try_)
    return where


def disk_bytes(jobs: Sequence[SaeJob], store: ActivationStore) -> int:
    """Return the bytes on disk while SAEs are trained: the weights of each, and its checkpoint while it lasts.

    Args:
        jobs: What is to be trained.
        store: The activations.
    """
    sizes = {job.out: _n_parameters(job, store) for job in jobs}
    # Two checkpoints of one SAE: the new one is whole before the old one goes.
    checkpoints = max((ADAM_BYTES * sum(sizes[job.out] for job in group) for group in _groups(jobs)), default=0)
    return 4 * sum(sizes.values()) + checkpoints + ADAM_BYTES * max(sizes.values(), default=0)


def _n_parameters(job: SaeJob, store: ActivationStore) -> int:
    """Return the number of parameters of an SAE."""
    return sum(p.numel() for p in _empty_sae(job, store).parameters())


def _empty_sae(job: SaeJob, store: ActivationStore) -> Sae:
    """Return an SAE of the sizes that a job has in a store: names and shapes only."""
    config = job.config
    rows = joined_rows(store, config.target_hook_point)
    with torch.device("meta"):
        return sae_from_config(config, *row_widths(rows, config.hook_point))


def training_bytes(jobs: Sequence[SaeJob], store: ActivationStore) -> int:
    """Return the least memory that SAEs side by side take: weights, Adam's moments, one gradient, a step of one.

    Raises:
        ConfigError: A setting does not fit the number of latents.
    """
    sizes, steps = [], []
    for job in jobs:
        sae = _empty_sae(job, store)
        sizes.append(sum(p.numel() for p in sae.parameters()))
        steps.append(min(SCRATCH_BYTES, 4 * sae.d_sae * job.config.batch_size // job.config.accumulate))
    # One gradient, the largest: SAEs take their steps in turn and free their gradients after each.
    return ADAM_BYTES * sum(sizes) + 4 * max(sizes) + sum(steps)
