"""`unlearn`: the public function that makes a removal, from objects or paths to an unlearned model."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.analysis.store import LatentAnalysis
from features.entities.entities import Entity
from features.entities.templates import Templates
from sae_train.errors import ConfigError
from sae_train.fields import config_of
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.run.checkpoints import CHECKPOINT
from sae_train.run.claims import require_disk
from sae_train.run.notes import note
from sae_train.run.outputs import Output
from sae_train.run.processes import ALONE, Processes
from sae_train.run.progress import Progress, shown
from sae_train.run.runs import run_folder
from sae_train.saes.base import Sae
from sae_train.text.tokens import Document
from unlearn.config import UnlearnConfig, configure
from unlearn.problem.data import resolve_targets
from unlearn.problem.hook_choice import choose_hook_point, gate_warning
from unlearn.removals.original import find_original
from unlearn.removals.record import RemovalRecord
from unlearn.removals.run import RemovalTask, check_trainable, removal_bytes, run_removal
from unlearn.removals.sources import Sources, documents_of, names_of, sources_of
from unlearn.removals.unlearned import Unlearned

NO_TEXT = "none"  # said in the place of a text by who wants none retained


def unlearn(
    lm: LanguageModel | Unlearned | str | Path,
    latents: LatentAnalysis | str | Path | None,
    *,
    forget: str | Sequence[str],
    sae: Sae | str | Path | Sequence[Sae | str | Path] | None = None,
    labels: Sequence[Entity] | str | Path | None = None,
    templates: Templates | str | Path | None = None,
    text: str | Path | Iterable[str | Document] | None = None,
    original: LanguageModel | str | Path | None = None,
    out: str | Path | None = None,
    config: UnlearnConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    processes: Processes = ALONE,
    wandb: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Unlearned:
    """Make a model not know the named entities: their activations move to where those of unknown ones lie.

    The model that comes in stays as it is; a copy changes. Other known entities, unknown ones and general text are
    retained.

    Args:
        lm: The model, an unlearned one among them, or where it lies.
        latents: Mined latents, or `latents.h5`. What `find_entity_latents` returned knows its SAEs, labels and
            templates; of a file they have to be said.
        forget: Names of the targets; a name shared by two types is written `type:name`.
        sae: SAEs, one of which the latents were mined with.
        labels: Labelled entities.
        templates: Training wordings are used, held-out ones never.
        text: General text to retain: a path, a hub dataset id, `fact-world`, or texts. Documents that name a target
            are left out. It has to be given: without any, entities that no template asks about lose what is known of
            them. Who wants none retained says `none`, or gives an empty list.
        original: The model before the first removal; by default as `unlearning.json` says.
        out: Folder of the unlearned model; without it nothing is left on disk.
        config: A whole config, in the place of `settings`.
        resume: Go on from a checkpoint of an interrupted run to the same `out`.
        overwrite: Replace `out`.
        device: Where the tensors live, where a model is loaded.
        processes: This process among those of `torchrun`.
        wandb: Weights & Biases project to log to as well.
        progress: Where to show how far it is; None shows it on the terminal, in the notebook or in the log.
        settings: `method`, fields of `UnlearnConfig` and of the method's own settings.

    Raises:
        InputError: Something that goes in cannot be used.
        NoChangeError: Nothing was changed; no model is written.
        CollapseError: The retained text's loss rose too far; no model is written.
        UnreachedError: With `stop_early`, the targets did not pass; no model is written.
    """
    several = {"is_shared": processes.count > 1, "is_writer": processes.is_first}
    output = Output(out, name="model", overwrite=overwrite, resume=resume, **several)
    chosen = config_of(UnlearnConfig, config, settings, build=configure)
    known, names, documents = known_of(latents, sae, labels, templates, forget, text)
    with output.held([run_folder(output.path) / CHECKPOINT]):
        task = task_of(
            lm, known, names, chosen, documents, original=original, device=device, is_told=processes.is_first
        )
        return _run(task, output, overwrite, progress or shown, resume=resume, processes=processes, wandb=wandb)


def known_of(
    latents: Any, sae: Any, labels: Any, templates: Any, forget: str | Sequence[str], text: Any
) -> tuple[Sources, tuple[str, ...], Iterable[Document]]:
    """Return what a removal is made from, the names of its targets, and the text; a wrong name is refused first."""
    known, names = sources_of(latents, sae=sae, labels=labels, templates=templates), names_of(forget)
    if known.analysis is None:
        raise ConfigError("no latents are given", got=latents, expected="mined latents, or their file", field="latents")
    resolve_targets(known.labels, names)  # refuses a wrong name before a model is loaded
    return known, names, _general_text(text)


def task_of(
    lm: LanguageModel | Unlearned | str | Path,
    known: Sources,
    names: Sequence[str],
    config: UnlearnConfig,
    documents: Iterable[Document],
    *,
    original: LanguageModel | str | Path | None,
    device: str,
    is_told: bool,
) -> RemovalTask:
    """Load models and SAEs, and return the task; `is_told` whether this process says what is worth a warning."""
    assert known.analysis is not None  # `known_of` has refused that
    record = lm.record if isinstance(lm, Unlearned) else RemovalRecord.read(_spec(lm))
    model = lm.lm if isinstance(lm, Unlearned) else lm
    is_own = not isinstance(model, LanguageModel)
    model = model if isinstance(model, LanguageModel) else load_lm(str(model), device=device)
    first = find_original(record, original, device=device)
    saes = known.load_saes(model.device)
    warning = gate_warning(known.analysis, choose_hook_point(saes, known.analysis, config.hook_point)[1])
    if warning and is_told:
        note(warning)
    return RemovalTask(
        model,
        saes,
        known.analysis,
        known.labels,
        known.templates,
        names,
        config,
        documents=documents,
        original=first,
        earlier=record.removed,
        chain=record.chain,
        is_own=is_own,
    )


def _run(
    task: RemovalTask, output: Output, overwrite: bool, progress: Progress, *, processes: Processes, **options: Any
) -> Unlearned:
    """Run a task in a working folder beside the output, and save the model if an output path is given."""
    check_trainable(task.lm, task.config)  # before its size is asked for: the reason is the method's, where it is one
    folder, out = run_folder(output.path), output.path
    name = "" if output.is_temporary else str(out)
    require_disk(out, removal_bytes(task.lm, task.config), try_="another disk, or `train`=lora")
    with progress("unlearning", task.config.steps) as advance:
        found = run_removal(task, folder, name=name, processes=processes, advance=advance, **options)
    if output.is_temporary:
        return replace(found, output=output)
    if processes.is_first:
        found.save(out, overwrite=overwrite)
        shutil.rmtree(folder)
    processes.wait()
    return replace(found, folder=out, run_folder=out)


def _general_text(text: str | Path | Iterable[str | Document] | None) -> Iterable[Document]:
    """Return the documents to retain; an empty tuple where none are wanted.

    Raises:
        ConfigError: Nobody says which text, or a source has not a single document.
    """
    expected = f"a file, a hub dataset id, fact-world or texts; '{NO_TEXT}' to retain none, which costs other knowledge"
    if text is None:
        raise ConfigError(
            "there is no general text to retain",
            got=None,
            field="text",
            expected=expected,
            try_="`text` with some of what the model was trained on, or with any text in its language, as wikitext",
        )
    documents = iter(()) if text == NO_TEXT else documents_of(text)
    first = next(documents, None)
    if first is not None:
        return itertools.chain([first], documents)
    if isinstance(text, str | Path) and text != NO_TEXT:
        raise ConfigError(
            "there is no general text to retain", got=f"no document in '{text}'", field="text", expected=expected
        )
    note("general text is not retained: what no template asks about is likely to suffer (`text`)")
    return ()


def _spec(lm: LanguageModel | str | Path) -> str:
    """Return the place that a model was, or will be, loaded from."""
    return lm.name if isinstance(lm, LanguageModel) else str(lm)
