"""The station that trains SAEs: claim the output folder, open the store, train, return the SAEs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sae_train.activations.joined import joined_rows, opened_pair
from sae_train.activations.several import StoreSource, opened_store
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.fields import config_of, default_of
from sae_train.lm.hook_names import folder_name
from sae_train.run.claims import clear_output, require_disk
from sae_train.run.outputs import Output
from sae_train.run.processes import ALONE, Processes
from sae_train.run.progress import Progress, shown, silent
from sae_train.saes.base import Sae
from sae_train.saes.interop import load_sae
from sae_train.training.grid import SaeJob, sae_jobs
from sae_train.training.jobs import check_jobs, disk_bytes, train_jobs

_REPEATED = ("hook_point", "k", "expansion", "seed")  # fields that `train_saes` takes several values of


def train_sae(
    store: StoreSource,
    hook_point: str | None = None,
    *,
    other: StoreSource | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    wandb: str | None = None,
    processes: Processes = ALONE,
    progress: Progress | None = None,
    config: SaeTrainConfig | None = None,
    **settings: Any,
) -> Sae:
    """Train a sparse autoencoder on one hook point of an activation store.

    Whole documents are held out; FVU, L0 and dead latents are measured on them.

    Args:
        store: The activations: an open store, a path, an address that fsspec knows, or several of them.
        hook_point: Where; needed where the store has several and `config` does not say.
        other: The same rows of another model, such as one after unlearning: one dictionary is trained for both, a
            crosscoder.
        out: The SAE folder; None keeps it in a temporary one, which goes away with the SAE.
        device: Where the tensors live: `auto`, `cpu`, `cuda[:n]` or `mps`.
        overwrite: What lies at `out` may be replaced.
        resume: Continue from the last checkpoint in `out`, to the same weights.
        wandb: Project of Weights & Biases to log to as well.
        processes: Processes that each take a part of every batch.
        progress: Where to show how far it is; None shows it on the terminal, in the notebook or in the log.
        config: Settings together, instead of one by one.
        settings: Fields of `SaeTrainConfig`: `arch="topk"`, `k=32`, `expansion=8`, `tokens`, …

    Returns:
        The SAE in evaluation mode, as `Sae.load` reads it; its `metrics` are `fvu, l0, frac_dead, l2_ratio, n_tokens,
        tokens_per_s, steps, trained_tokens` with their intervals.

    Raises:
        ConfigError: A setting does not exist, is out of range, or differs from the run to be resumed.
        HookPointError: The store has no such hook point.
        OutputExistsError: `out` is taken.
        MemoryShortError: Weights and optimizer do not fit.
        NumericalError: The loss is not finite or explodes, or all latents are dead; the last checkpoint stays.
    """
    hook_points = _places(store, hook_point, config)
    config = config_of(SaeTrainConfig, config, {**settings, "hook_point": hook_points[0]}, can_change=True)
    given = {f.name: getattr(config, f.name) for f in fields(config)}
    repeated = {name: (given.pop(name),) for name in _REPEATED}
    (sae,) = train_saes(
        store,
        repeated.pop("hook_point"),
        **repeated,
        other=other,
        out=out,
        device=device,
        overwrite=overwrite,
        resume=resume,
        wandb=wandb,
        processes=processes,
        spread="batch",
        progress=progress,
        **given,
    )
    return sae


def train_saes(
    store: StoreSource,
    hook_points: Sequence[str],
    *,
    k: Sequence[int] = (default_of(SaeTrainConfig, "k"),),
    expansion: Sequence[int] = (default_of(SaeTrainConfig, "expansion"),),
    seed: Sequence[int] = (default_of(SaeTrainConfig, "seed"),),
    other: StoreSource | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    wandb: str | None = None,
    processes: Processes = ALONE,
    spread: str = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> list[Sae]:
    """Train every combination of hook points, k, widths and seeds, those at one hook point on the same batches.

    Each gets the weights that it would have alone; the store is read once for those that are trained side by side.

    Args:
        store: The activations: an open store, a path, an address that fsspec knows, or several of them.
        hook_points: Where.
        k: Latents kept per token.
        expansion: Latents per input dimension.
        seed: Seeds of the weights. Of several, the first draws held-out documents and order for all.
        other: As in `train_sae`.
        out: The folder with a folder for each; of a single SAE its own folder. None keeps them in a temporary one,
            which goes away with the last of them.
        device: As in `train_sae`.
        overwrite: As in `train_sae`.
        resume: Finished SAEs are left alone, others continue.
        wandb: As in `train_sae`; each SAE is a run of its own.
        processes: Processes that share the work.
        spread: What they divide: `saes` (each trains some of them alone), `batch` (each takes a part of every batch),
            or `auto`: SAEs, if there are at least as many as processes.
        progress: As in `train_sae`.
        settings: Other fields of `SaeTrainConfig`, the same for all.

    Returns:
        The SAEs, hook point after hook point, as `train_sae` returns them; in every process.

    Raises:
        ConfigError, HookPointError, OutputExistsError, MemoryShortError, NumericalError: As `train_sae`.
    """
    hook_points = (hook_points,) if isinstance(hook_points, str) else hook_points
    several = {"is_shared": processes.count > 1, "is_writer": processes.is_first}
    output = Output(out, name="saes", overwrite=overwrite, resume=resume, **several)
    repeated = {"k": k, "expansion": expansion, "seed": seed}
    _jobs(output, hook_points, repeated, settings)  # refuses bad values before a file is opened
    processes.wait()
    with output.held(), opened_pair(store, other) as opened:
        if settings.get("target_hook_point") is not None:
            joined_rows(opened, settings["target_hook_point"])  # refuses what does not go together
            settings["target_hook_point"] = opened.hook_point(settings["target_hook_point"])
        jobs = _jobs(output, [opened.hook_point(name) for name in hook_points], repeated, settings)
        _refuse_own_start(jobs, output)
        where = check_jobs(jobs, opened, device=device, processes=processes, spread=spread)
        require_disk(output.path, disk_bytes(jobs, opened), try_="fewer SAEs, or a smaller `expansion`")
        if processes.is_first and not resume:
            clear_output(output.path, overwrite=overwrite)
        processes.wait()
        n_rows = (jobs[0].config.tokens or opened.n_rows) * len(jobs)
        display = (progress or shown) if processes.is_first else silent
        with display("training", n_rows, unit="tokens") as advance:
            how = {"resume": resume, "wandb": wandb, "advance": advance, "processes": processes, "spread": spread}
            train_jobs(opened, jobs, output.path, device=device, **how)
        processes.wait()  # until the first one has written its part
        saes = [load_sae(job.out, device=where) for job in jobs]
    for sae in saes:
        sae.output = output
    return saes


def _jobs(
    output: Output, hook_points: Sequence[str], repeated: dict[str, Any], settings: dict[str, Any]
) -> list[SaeJob]:
    """Return every combination; in a temporary folder a single SAE has a folder named after the hook point."""
    jobs = sae_jobs(output.path, hook_points=hook_points, **repeated, **settings)
    alone = output.is_temporary and len(jobs) == 1
    return [SaeJob(jobs[0].config, output.path / folder_name(jobs[0].config.hook_point))] if alone else jobs


def _refuse_own_start(jobs: Sequence[SaeJob], output: Output) -> None:
    """Refuse an SAE to go on from in the folder that a run would clear, or write to."""
    place = output.path.resolve()
    for job in jobs:
        source = None if job.config.init is None else Path(job.config.init).resolve()
        if source is not None and (source == place or place in source.parents):
            raise ConfigError(
                "an SAE cannot go on from itself", got=job.config.init, field="init", expected=f"one outside '{place}'"
            )


def _places(store: StoreSource, hook_point: str | None, config: SaeTrainConfig | None) -> tuple[str, ...]:
    """Return where to train: what was said, or the only hook point that the store has.

    Raises:
        ConfigError: The store has several, and nobody says which.
    """
    said = hook_point or (config.hook_point if config is not None else None)
    if said:
        return (said,)
    with opened_store(store) as opened:
        names = opened.hook_points
    if len(names) > 1:
        raise ConfigError("which hook point?", got="none (hook_point)", expected=", ".join(names))
    return tuple(names)
