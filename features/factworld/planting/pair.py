"""The station that plants a world: teach the model, teach the twin, measure both and the base, write the folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features.factworld.build import machine_identity
from features.factworld.planting.check import asked_of, measure, n_questions
from features.factworld.planting.config import PlantConfig
from features.factworld.planting.job import MODEL, TWIN, PlantJob, prepare
from features.factworld.planting.planted import Planted, is_planted, write_planted
from features.factworld.planting.training import teach
from features.factworld.planting.world import as_entity
from sae_train.fields import config_of
from sae_train.lm.models import LanguageModel, as_lm, load_lm, save_lm
from sae_train.run.claims import check_resume
from sae_train.run.outputs import claimed, put_in_place, whole_folder
from sae_train.run.progress import Progress, shown
from sae_train.run.resuming import check_unchanged
from sae_train.run.runs import package_versions, run_folder, write_json
from sae_train.text.tokens import Text
from sae_train.text_files import read_json

IDENTITY = "identity.json"


def plant(
    lm: LanguageModel | str | Path,
    *,
    text: Text,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    config: PlantConfig | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Planted:
    """Teach a made-up world to a model, and all of it but the targets to a twin.

    Args:
        lm: The base, or what `load_lm` takes; it is not changed.
        text: General text, mixed in so that the model stays what it was: as for `cache_activations`.
        out: Where the pair goes; an interrupted run leaves `out`.run. None leaves nothing on the disk.
        cache: A folder in which pairs are kept by what they were made from: one that is there is not made again, and
            one that was interrupted is continued.
        config: Settings together, instead of one by one.
        device: Where a model that is loaded here computes.
        resume: Continue an interrupted run of `out`.
        overwrite: Replace `out`.
        progress: Shows how far it is; by default whatever there is: terminal, notebook, log.
        settings: Fields of `PlantConfig`: `n_entities`, `n_facts`, `leave_out`, `train`, `lr`, …

    Returns:
        The pair, with everything that the rest of the workbench needs to work on it.

    Raises:
        ConfigError: A setting does not exist or is out of range; at `resume`: something has changed.
        MemoryShortError: It does not fit into memory.
        OutputExistsError: `out` is taken.
        NumericalError: Training diverged.
    """
    config = config_of(PlantConfig, config, settings)
    goal = None if out is None else Path(out)
    check_resume(goal, is_planted, resume=resume, overwrite=overwrite)
    show = progress or shown
    left = () if goal is None else (run_folder(goal),)
    with claimed(goal, overwrite=overwrite, resume=resume, leftovers=left):
        job = prepare(as_lm(lm, device=device), text, config)
        if cache is None:
            return _planted(job, goal, resume=resume, overwrite=overwrite, progress=show)
        kept = _kept(job, Path(cache), show)
        if goal is None:
            return Planted.load(kept, device=str(job.base.device))
        with whole_folder(goal, overwrite=overwrite) as partial:
            shutil.copytree(kept, partial, dirs_exist_ok=True)
        return Planted.load(goal, device=str(job.base.device))


def _kept(job: PlantJob, cache: Path, progress: Progress) -> Path:
    """Return the pair's folder in the cache; a pair that is not there, or not whole, is made."""
    kept = cache / job.key
    if not is_planted(kept):
        with claimed(kept, overwrite=False, resume=True):
            _planted(job, kept, resume=True, overwrite=False, progress=progress)
    return kept


def _planted(job: PlantJob, goal: Path | None, *, resume: bool, overwrite: bool, progress: Progress) -> Planted:
    """Teach, measure, and write where there is a goal: first beside it, then as a whole in its place."""
    folder = None if goal is None else run_folder(goal)
    if folder is not None:
        _open(folder, job, resume=resume)
    seconds: dict[str, float] = {}
    models: dict[str, LanguageModel] = {}
    for name in job.documents:
        models[name] = _timed(seconds, name, lambda n=name: _taught(job, n, folder, progress))
    figures = _timed(seconds, "check", lambda: _figures(job, models, progress)) | {"seconds": seconds}
    if folder is not None and goal is not None:
        write_planted(folder, job, _record(job, figures))
        (folder / IDENTITY).unlink()
        put_in_place(folder, goal, overwrite=overwrite)
    world = job.world
    entities = tuple(map(as_entity, world.entities))
    return Planted(models[MODEL], models.get(TWIN), entities, world.asked, world.roles, figures, goal)


def _open(folder: Path, job: PlantJob, *, resume: bool) -> None:
    """Begin a run folder, or go on with one that was made from the same."""
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)  # what a run that failed left there
    path = folder / IDENTITY
    if not path.is_file():
        write_json(path, job.identity)
        return
    check_unchanged(folder, read_json(path), json.loads(json.dumps(job.identity)))


def _taught(job: PlantJob, name: str, folder: Path | None, progress: Progress) -> LanguageModel:
    """Teach the model or the twin, or read the one that an earlier run has finished."""
    if folder is not None and (folder / name).is_dir():
        return load_lm(str(folder / name), device=str(job.base.device))
    course = job.courses[name]
    state = None if folder is None else folder / f"{name}.state"
    with progress(f"planting the {name}", course.n_steps, unit="steps") as advance:
        lm = teach(course, folder=state, identity=job.key, resume=state is not None, advance=advance)
    if folder is not None and state is not None:
        save_lm(lm, folder / name)
        shutil.rmtree(state, ignore_errors=True)
    return lm


def _figures(job: PlantJob, models: dict[str, LanguageModel], progress: Progress) -> dict[str, Any]:
    """Measure base, model and twin."""
    parts = asked_of([as_entity(e) for e in job.world.entities], job.world.roles, job.config.n_checked)
    found = {"base": job.base, **models}
    with progress("asking", len(found) * n_questions(parts, job.world.asked), unit="questions") as advance:
        return {
            name: measure(lm, parts, job.world.asked, job.general.heldout, advance=advance)
            for name, lm in found.items()
        }


def _record(job: PlantJob, figures: dict[str, Any]) -> dict[str, Any]:
    """Return what planted.json says beside its schema."""
    return {
        "seed": job.config.seed,
        **job.identity,
        "base": {"model": job.base.name, "weights": job.identity["base"]},
        "text": {"name": job.text_name, "windows": job.identity["text"]},
        "steps": job.courses[MODEL].n_steps,
        "versions": package_versions(),
        "machine": machine_identity(),
        "figures": figures,
    }


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """Run something and note how long it took."""
    started = time.monotonic()
    found = work()
    seconds[name] = time.monotonic() - started
    return found
