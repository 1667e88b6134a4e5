"""One unlearning run in memory: prepare the problem, tune, check the outcome, return the model.

task -> prepared (sets, partners, text windows, the copy that changes) -> tuned -> outcome -> Unlearned
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from features.analysis.store import LatentAnalysis
from features.entities.entities import Entity
from features.entities.templates import Templates
from sae_train.errors import ConfigError, RunError
from sae_train.lm.adapters import Base, attach_adapter, merge_adapter, save_adapter
from sae_train.lm.models import LanguageModel, round_to_stored, sharing_copy, weights_hash
from sae_train.machine.checkpointing import checkpoint_blocks, keep_activations
from sae_train.run.checkpoints import CHECKPOINT
from sae_train.run.notes import note
from sae_train.run.processes import ALONE, Processes
from sae_train.run.progress import Advance, no_advance
from sae_train.run.runs import Run, jsonable, text_hash
from sae_train.saes.base import Sae
from sae_train.saes.interop import sae_hash
from sae_train.text.tokens import Document
from unlearn.auditing.roles import check_pair
from unlearn.config import UnlearnConfig
from unlearn.finetuning.budget import Budget, KlMeter
from unlearn.finetuning.finetune import SMALL, Objective, Preparing, Tuned, WeightEdit, finetune, trainable_parameters
from unlearn.finetuning.outcome import Outcome, check_outcome
from unlearn.finetuning.step_plan import plan_steps
from unlearn.finetuning.stopping import Stopper
from unlearn.finetuning.validation import hold_apart
from unlearn.methods import build_method
from unlearn.problem.data import UnlearnSets, split_sets, without_targets
from unlearn.problem.general_text import GeneralText, read_general_text
from unlearn.problem.hook_choice import choose_hook_point
from unlearn.problem.made_up_partners import made_up_partners
from unlearn.problem.problem import Problem
from unlearn.removals.record import RemovalRecord
from unlearn.removals.unlearned import ADAPTER, Unlearned

ADAMW_BYTES = 3 * 4  # a parameter and its two moments, float32
WORTH_TRYING = 20  # steps, from which on two batches more are little
WITHIN_BYTES = 4  # the same parameter in the last state within the KL budget


@dataclass(frozen=True)
class RemovalTask:
    """The input of one removal: the model, the targets, the mined latents, and the config.

    Attributes:
        lm: The model; it is not changed.
        saes: SAEs, one of which the latents were mined with.
        analysis: Mined latents.
        labels: Labelled entities.
        templates: Training wordings are used, held-out ones never.
        names: Targets.
        config: The frozen config.
        documents: General text to retain; an empty tuple is none.
        original: The model before the first removal, as which everything else is kept; None where `lm` is that, or
            where it is not at hand: then it is kept as `lm` has it.
        earlier: What was removed from this model before, key by key of its partner: kept forgotten.
        chain: The removals that led to this model, for the record.
        is_own: Nobody else holds `lm`: an adapter is merged into its weights, not into a copy of them.
    """

    lm: LanguageModel
    saes: Sequence[Sae]
    analysis: LatentAnalysis
    labels: Sequence[Entity]
    templates: Templates
    names: Sequence[str]
    config: UnlearnConfig
    documents: Iterable[Document] = ()
    original: LanguageModel | None = None
    earlier: Mapping[str, str] = field(default_factory=dict)
    chain: Sequence[dict[str, Any]] = ()
    is_own: bool = False


@dataclass(frozen=True)
class Prepared:
    """A task after all random draws: entity sets, partners, text windows, and the copy of the model that changes.

    Attributes:
        problem: What methods are given; its `lm` is the copy that changes, its `reference` the model that came in.
        validation: Wordings held apart for early stopping.
        base: Path or hub id, and hash, of the model that came in.
        inputs: What the run was made from, with hashes.
    """

    problem: Problem
    validation: Templates
    base: Base
    inputs: dict[str, Any]


def run_removal(
    task: RemovalTask,
    folder: Path,
    *,
    name: str = "",
    resume: bool = False,
    processes: Processes = ALONE,
    wandb: str | None = None,
    advance: Advance = no_advance,
) -> Unlearned:
    """Make a copy of the model forget the named entities.

    Args:
        task: What is to be removed.
        folder: Where log and checkpoints lie until the model is saved.
        name: What to call the result in the record: where it will be saved.
        resume: Go on from a checkpoint.
        processes: This process among the others; only the first writes.
        wandb: Project to log to as well.
        advance: Called with steps done and the terms of the loss.

    Raises:
        EntityError: A target cannot be used.
        HookPointError: SAEs and latents do not fit.
        ShapeError: `original` has another shape or tokenizer than `lm`.
        NoChangeError: Nothing was changed.
        CollapseError: The retained text's loss rose too far.
        UnreachedError: With `stop_early`, the targets did not pass.
    """
    started = time.monotonic()
    prepared = prepare(task)
    config, problem = task.config, prepared.problem
    # What an adapter or a method cannot do with this model is refused before anything is written.
    adapter, method, stopper = adapter_for(problem.lm, config), build_method(problem), None
    if processes.is_first and not resume:
        shutil.rmtree(folder, ignore_errors=True)  # what a run that failed left there
    processes.wait()
    run, meter = None, KlMeter(problem.lm, problem.original, problem.heldout, processes)
    budget = budget_of(problem, meter)
    if processes.is_first:
        run = Run(folder, config=config, command="unlearn", inputs=prepared.inputs, wandb=wandb)
    # On resume, too: a checkpoint holds the trained parameters only, and this may change others.
    if isinstance(method, Preparing):
        method.prepare()
    if config.stop_early:
        stopper = Stopper(problem, prepared.validation, run)
    announce(problem, method, run, processes)
    tuned = tune(prepared, method, stopper, budget, run, folder, resume=resume, processes=processes, advance=advance)
    keep_activations(problem.lm.model)
    outcome = _checked(prepared, stopper, tuned, folder)
    result = {
        "model": name,
        "method": config.method,
        "steps": tuned.steps,
        "lr": None if isinstance(method, WeightEdit) else config.step_size(problem.lm.d_model),
        "seconds": time.monotonic() - started,
        **asdict(outcome),
        "hook_point": problem.latents.hook_point,
        "terms": tuned.terms,
        "is_adapter": config.train == "lora" and not config.merge,
        **({} if stopper is None else {"validation": asdict(stopper.last)}),
    }
    # First saved, then merged: merging takes the adapter off the model.
    if run is not None and result["is_adapter"]:
        save_adapter(adapter, problem.lm.tokenizer, folder / ADAPTER, prepared.base)
    if adapter is not None:
        meter.read_original()  # while there still is one
        merge_adapter(adapter, in_place=task.is_own)
        if not result["is_adapter"]:
            round_to_stored(problem.lm)
    result |= _damage(problem, meter, budget)
    values = {"config": jsonable(config), "inputs": prepared.inputs, "result": result, "chain": list(task.chain)}
    if run is not None:
        run.finish(result=result)
        # After merging, so that the hash is that of the weights which are saved and audited.
        values |= {"model_hash": weights_hash(problem.lm.model), "run_id": run.record["run_id"]}
    return Unlearned(problem.lm, result, RemovalRecord(values), folder=None, run_folder=folder)


def announce(problem: Problem, method: Objective | WeightEdit, run: Run | None, processes: Processes) -> None:
    """Log and say what the steps will take, where two batches that are tried out cost little beside them."""
    config = problem.config
    n_trained = sum(p.numel() for p in trainable_parameters(problem.lm.model, config.train).values())
    if isinstance(method, WeightEdit) or n_trained <= SMALL or config.steps < WORTH_TRYING:
        return
    plan = plan_steps(problem.lm, [problem.reference, problem.original], method, config, processes)
    if run is not None:
        run.log(step=0, **{f"planned_{name}": value for name, value in asdict(plan).items()})
        note(f"{plan.sentence} (`plan` says so without a run)", is_news=True)


def _checked(prepared: Prepared, stopper: Stopper | None, tuned: Tuned, folder: Path) -> Outcome:
    """Refuse a run that changed nothing, destroyed the model or did not reach its targets, before anything is saved."""
    problem = prepared.problem
    if problem.config.train != "lora":  # what is saved is looked at; an adapter is saved as it is
        round_to_stored(problem.lm)
    try:
        outcome = check_outcome(problem)
        if stopper is not None:
            stopper.require_reached(tuned.steps)
    except RunError:
        (folder / CHECKPOINT).unlink(missing_ok=True)  # continued, it would come to the same end
        raise
    return outcome


def _damage(problem: Problem, meter: KlMeter, budget: Budget | None) -> dict[str, Any]:
    """Return the KL of the finished model on held-out text, where there is any, and whether a budget is used up."""
    reached = {} if budget is None else {"budget_reached": budget.is_reached}
    return {**({"kl": meter.measure()} if problem.heldout else {}), **reached}


def prepare(task: RemovalTask, *, is_dry: bool = False) -> Prepared:
    """Draw sets and partners, read the general text, copy the model; for a dry run nothing of it, which then stays.

    A dry run's model may be asked for gradients and not be changed.
    """
    lm, config = task.lm, task.config
    # Before the model is copied and the text is read, which take time and memory.
    check_trainable(lm, config)
    if task.original is not None:
        check_pair(lm, task.original, field="original")
    loaded, latents = choose_hook_point(task.saes, task.analysis, config.hook_point)
    # Validation wordings are neither trained on nor audited: else the audit would measure what ended the run.
    wordings, validation = hold_apart(task.templates) if config.stop_early else (task.templates, task.templates)
    sets = split_sets(
        lm,
        task.labels,
        wordings,
        task.analysis,
        task.names,
        frac_retain=config.frac_retain,
        seed=config.seed,
        earlier=task.earlier,
    )
    if config.settings.aims_at_made_up:
        sets = replace(sets, partner=made_up_partners(lm, sets, wordings, seed=config.seed))
    text, heldout = _text(task, sets)
    # A copy changes; aims and retention read the model that came in, and the caller still has it. What cannot change is
    # not held twice: with an adapter nothing is until it is merged, and never the embedding.
    what = "full" if config.settings.edits_weights else config.train
    own = {} if is_dry else trainable_parameters(lm.model, what)
    changing = replace(lm, model=sharing_copy(lm.model, own))
    if config.checkpoint_activations:  # in the copy alone, and before methods make copies of it
        checkpoint_blocks(changing.model)
    # The original where there is one: after twenty removals the text loss was up by 2.9 % where each run kept what it
    # had found, by 0.18 % with the original as the reference (docs/results/log_redirection.md, "twenty removals in
    # sequence").
    kept_as = lm.model if task.original is None else task.original.model
    problem = Problem(changing, lm.model, kept_as, sets, wordings, loaded, latents, text, config, heldout)
    base = _base(lm)
    first = base if task.original is None else _base(task.original)
    inputs = _inputs(problem, loaded, base, first)
    return Prepared(problem, validation, base, inputs)


def _text(task: RemovalTask, sets: UnlearnSets) -> GeneralText:
    """Return windows of the general text to retain, and those on which the damage is measured.

    Raises:
        ConfigError: Every document names a target, or none is left for a KL budget.
    """
    # Retention would keep what a document says about a target, so such documents are left out.
    found = read_general_text(task.lm, without_targets(task.documents, [*sets.forget, *sets.earlier]))
    if not found.retained and task.documents != ():
        raise ConfigError(
            "no general text is left to retain",
            got="only documents that name a target, or none at all",
            field="text",
            expected="documents about other things",
        )
    if task.config.kl_budget is not None and not found.heldout:
        raise ConfigError(
            "a KL budget needs general text",
            got=f"{len(found.retained)} windows, of which none can be held out (`text`)",
            expected="text on which KL(original || unlearned) is measured",
            try_="more `text`, or no `kl_budget`",
        )
    return found


def tune(
    prepared: Prepared,
    method: Objective | WeightEdit,
    stopper: Stopper | None,
    budget: Budget | None,
    run: Run | None,
    folder: Path,
    *,
    resume: bool,
    processes: Processes,
    advance: Advance,
) -> Tuned:
    """Let the method change the model: solve for weights, or take optimizer steps."""
    problem, config = prepared.problem, prepared.problem.config
    if isinstance(method, WeightEdit):
        tuned = Tuned(edited(method, budget, advance), config.steps)
        if run is not None:
            run.log(step=0, **tuned.terms)
        return tuned
    return finetune(
        problem.lm,
        method,
        config,
        run,
        folder=folder,
        identity={"config": json.dumps(jsonable(config)), "inputs": json.dumps(jsonable(prepared.inputs))},
        resume=resume,
        processes=processes,
        passes=None if stopper is None else stopper.passes,
        budget=budget,
        advance=advance,
    )


def edited(method: WeightEdit, budget: Budget | None, advance: Advance = no_advance) -> dict[str, float]:
    """Write a weight edit, scaled to the budget where there is one; return its figures, those of the whole edit."""
    terms = method.edit(advance)
    return terms if budget is None else {**terms, "edit_scale": budget.scale(has_full_size=method.has_full_size)}


def budget_of(problem: Problem, meter: KlMeter) -> Budget | None:
    """Return the KL budget of a run before anything has changed; None where there is none."""
    config = problem.config
    if config.kl_budget is None:
        return None
    parameters = trainable_parameters(problem.lm.model, config.train)
    return Budget(meter, config.kl_budget, parameters, is_rounded=config.train != "lora")


def removal_bytes(lm: LanguageModel, config: UnlearnConfig) -> int:
    """Return the bytes on disk that a run takes: the model, and its checkpoint while the next one is written."""
    if config.train == "lora":  # small beside any model
        return 0
    model = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    trained = sum(p.numel() for p in trainable_parameters(lm.model, config.train).values())
    has_checkpoint = config.save_every < config.steps and not config.settings.edits_weights
    kept = ADAMW_BYTES + (0 if config.kl_budget is None else WITHIN_BYTES)
    return model + 2 * kept * trained * has_checkpoint


def check_trainable(lm: LanguageModel, config: UnlearnConfig) -> None:
    """Refuse, before any work, what the model's architecture does not allow.

    Raises:
        ConfigError: No MLP output matrices to train, or none that can be solved for.
    """
    if config.settings.is_solved and not any(b.is_solvable for b in lm.architecture.blocks):
        lm.architecture.straight_matrices()  # says why; whether the blocks that are chosen are among them, the method
    elif config.train == "down_proj":
        lm.architecture.written_parameters()


def adapter_for(lm: LanguageModel, config: UnlearnConfig) -> Any:
    """Attach an adapter where one is to be trained; else None."""
    if config.train != "lora":
        return None
    return attach_adapter(lm.model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)


def _base(lm: LanguageModel) -> Base:
    """Return a model's absolute path, which is valid from any folder, or its hub id, with its hash."""
    return Base(str(Path(lm.name).resolve()) if Path(lm.name).exists() else lm.name, weights_hash(lm.model))


def _inputs(problem: Problem, loaded: Sae, base: Base, original: Base) -> dict[str, Any]:
    """Return what a run was made from, with hashes."""
    sets = problem.sets
    return {
        "model": problem.lm.name,
        "model_hash": base.weights_hash,
        "original": original.spec,
        "original_hash": original.weights_hash,
        "sae": str(loaded.folder),
        "sae_hash": sae_hash(loaded),
        "forget": [e.key for e in sets.forget],
        "earlier": [e.key for e in sets.earlier],
        "earlier_partners": [e.key for e in sets.earlier_partner],
        "partners": [e.key for e in sets.partner],
        "retain": [e.key for e in sets.retain],
        "unknown": [e.key for e in sets.unknown],
        "text_hash": text_hash(str(window) for window in problem.text),
        "n_text_windows": len(problem.text),
        **({} if problem.config.kl_budget is None else {"heldout_hash": text_hash(map(str, problem.heldout))}),
    }
