"""One unlearning run, from the files to a saved model: problem, fine-tune, checks, output."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from features.entities import Entity
from features.prompts import Templates
from features.store import HookPointAnalysis, LatentAnalysis
from sae_train.errors import CollapseError, HookPointError, NoChangeError
from sae_train.lm.adapters import Base, adapter_change, attach_adapter, merge_adapter, save_adapter
from sae_train.lm.generate import text_loss
from sae_train.lm.hook_names import canonical_hook_point
from sae_train.lm.models import LanguageModel, save_lm, weights_hash
from sae_train.lm.tokens import Document
from sae_train.lm.worlds import find_world
from sae_train.processes import ALONE, Processes
from sae_train.runs import Run, clear_output, jsonable, text_hash, write_json
from sae_train.saes.base import Sae
from sae_train.saes.interop import sae_hash
from unlearn.config import UnlearnConfig
from unlearn.data import retained_prompts, split_sets, text_windows, without_targets
from unlearn.finetune import Preparing, Tuned, WeightEdit, checkpoint_folder, finetune, trainable_parameters
from unlearn.methods import build_method
from unlearn.problem import Problem
from unlearn.record import RECORD
from unlearn.roles import check_pair
from unlearn.stopping import Stopper
from unlearn.validation import hold_apart

TEXT_CTX = 64
TEXT_TOKENS = 60_000
SMALLEST_CHANGE = 1e-6  # relative; below it nothing was learned


def unlearn(
    lm: LanguageModel,
    saes: Sequence[Sae],
    analysis: LatentAnalysis,
    labels: Sequence[Entity],
    templates: Templates,
    names: Sequence[str],
    config: UnlearnConfig,
    out: Path,
    *,
    documents: Iterable[Document] = (),
    original: LanguageModel | None = None,
    earlier: Mapping[str, str] = MappingProxyType({}),
    chain: Sequence[dict[str, Any]] = (),
    resume: bool = False,
    overwrite: bool = False,
    processes: Processes = ALONE,
    wandb: str | None = None,
    advance: Callable[[int, dict[str, float]], None] = lambda n, terms: None,
) -> dict[str, Any]:
    """Make `lm` forget the named entities, in place, and write it to `out`.

    Args:
        lm: The model; an adapter, where one is trained, is merged into it in the end.
        saes: SAEs, one of which the latents were mined with.
        analysis: Mined latents.
        labels: Labelled entities.
        templates: Training wordings are used, held-out ones never.
        names: Targets.
        config: The frozen config.
        out: A new folder.
        documents: General text to retain.
        original: The model before the first removal, as which everything else is kept; None where `lm` is that, or
            where it is not at hand: then it is kept as `lm` has it.
        earlier: What was removed from this model before, key by key of its partner: kept forgotten.
        chain: The removals that led to this model, for the record.
        resume: Go on from a checkpoint.
        overwrite: Replace `out`.
        processes: This process among the others; only the first writes.
        wandb: Project to log to as well.
        advance: Called with steps done and the terms of the loss.

    Returns:
        `model, method, steps, lr, seconds, changed_parameters, relative_change, retained_loss_before` and `_after`.
        `lr` is None where weights were solved for and no step was taken.

    Raises:
        ConfigError: The model's architecture does not allow what is to be trained.
        EntityError: A target cannot be used.
        HookPointError: SAEs and latents do not fit.
        ShapeError: `original` has another shape or tokenizer than `lm`.
        NoChangeError: Nothing was changed; no model is written.
        CollapseError: The retained text's loss rose too far; no model is written.
        UnreachedError: With `stop_early`, the targets did not pass; no model is written.
    """
    started = time.monotonic()
    check_trainable(lm, config)
    if original is not None:
        check_pair(lm, original, field="original")
    folder = checkpoint_folder(out)
    loaded, latents = choose_hook_point(saes, analysis, config.hook_point)
    wordings, validation = hold_apart(templates) if config.stop_early else (templates, templates)
    sets = split_sets(
        lm, labels, wordings, analysis, names, retain_share=config.retain_share, seed=config.seed, earlier=earlier
    )
    base = _base(lm)
    reference = copy.deepcopy(lm.model)
    gone = without_targets(documents, [*sets.forget, *sets.earlier])
    text = text_windows(lm.tokenizer, gone, ctx_len=TEXT_CTX, max_tokens=TEXT_TOKENS)
    kept_as = reference if original is None else original.model
    problem = Problem(lm, reference, kept_as, sets, wordings, loaded, latents, text, config)
    inputs = _inputs(problem, loaded, base, base if original is None else _base(original))
    adapter = adapter_for(lm, config)
    if processes.is_first and not resume:
        shutil.rmtree(folder, ignore_errors=True)  # what a run that failed left there
    processes.wait()
    run = Run(folder, config=config, command="unlearn", inputs=inputs, wandb=wandb) if processes.is_first else None
    identity = {"config": json.dumps(jsonable(config)), "inputs": json.dumps(jsonable(inputs))}
    method = build_method(problem)
    if isinstance(method, Preparing):
        method.prepare()
    stopper = Stopper(problem, validation, run) if config.stop_early else None
    if isinstance(method, WeightEdit):
        tuned = Tuned(method.edit(), config.steps)
        if run is not None:
            run.log(step=0, **tuned.terms)
    else:
        passes = None if stopper is None else stopper.passes
        tuned = finetune(
            lm,
            method,
            config,
            run,
            folder=folder,
            identity=identity,
            resume=resume,
            processes=processes,
            passes=passes,
            advance=advance,
        )
    change = check_outcome(problem)
    if stopper is not None:
        stopper.require_reached(tuned.steps)
    result = {
        "model": str(out),
        "method": config.method,
        "steps": tuned.steps,
        "lr": None if isinstance(method, WeightEdit) else config.step_size(lm.d_model),
        "seconds": time.monotonic() - started,
        **change,
        "hook_point": latents.hook_point,
        "terms": tuned.terms,
        "is_adapter": adapter is not None and not config.merge,
    }
    if stopper is not None:
        result["validation"] = asdict(stopper.last)
    if run is not None:
        clear_output(out, overwrite=overwrite)
        record = {"config": config, "inputs": inputs, "result": result, "chain": list(chain)}
        _save(lm, adapter, out, run, base, record)
    elif adapter is not None:
        merge_adapter(adapter)
    processes.wait()
    return result


def _base(lm: LanguageModel) -> Base:
    """Return what finds a model again: its path in full, so that it is found from any folder, or its name."""
    is_path = find_world(lm.name) is None and Path(lm.name).exists()
    return Base(str(Path(lm.name).resolve()) if is_path else lm.name, weights_hash(lm.model))


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
        "text_hash": text_hash(str(window) for window in problem.text),
        "n_text_windows": len(problem.text),
    }


def check_trainable(lm: LanguageModel, config: UnlearnConfig) -> None:
    """Refuse, before any work, what the model's architecture does not allow.

    Raises:
        ConfigError: No MLP output matrices to train, or none that can be solved for.
    """
    if config.settings.edits_weights and not any(b.is_solvable for b in lm.architecture.blocks):
        lm.architecture.straight_matrices()  # says why; whether the blocks that are chosen are among them, the method
    elif config.train == "down_proj":
        lm.architecture.written_parameters()


def adapter_for(lm: LanguageModel, config: UnlearnConfig) -> Any:
    """Attach an adapter where one is to be trained; else None."""
    if config.train != "lora":
        return None
    return attach_adapter(lm.model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)


def choose_hook_point(
    saes: Sequence[Sae], analysis: LatentAnalysis, wanted: str | None
) -> tuple[Sae, HookPointAnalysis]:
    """Return the SAE and the analysis to use: the hook point asked for, or the best one there is.

    Best is what the gate recommends, if latents were selected there, else where the latents tell most.

    Raises:
        HookPointError: No SAE reads there, or the latents were mined with another SAE.
    """
    at = None if wanted is None else canonical_hook_point(wanted)
    usable = [
        (s, f)
        for f in analysis.hook_points
        for s in saes
        if s.hook_point == f.hook_point and at in (None, f.hook_point)
    ]
    if not usable:
        raise HookPointError(
            "SAE and latents do not fit",
            got=f"{wanted or ', '.join(s.hook_point for s in saes)} (`hook_point`, `sae`)",
            expected=", ".join(f.hook_point for f in analysis.hook_points) + " (`latents`)",
        )
    fitting = [(s, f) for s, f in usable if sae_hash(s) == f.sae_hash]
    if not fitting:
        loaded, found = usable[0]
        raise HookPointError(
            "the latents were mined with another SAE",
            got=f"{loaded.folder} at {found.hook_point}",
            field="sae",
            expected=f"the SAE called '{found.sae}' with weights {found.sae_hash[:12]}…",
        )
    advised = None if analysis.gate is None else analysis.gate.recommended
    for loaded, found in fitting:
        if found.hook_point == advised and any(found.selected.values()):
            return loaded, found
    return max(
        fitting,
        key=lambda sf: (sf[1].score.value if sf[1].score.value == sf[1].score.value else 0.0, sf[1].probe.value),
    )


def gate_warning(analysis: LatentAnalysis, found: HookPointAnalysis) -> str | None:
    """Return what the gate has against unlearning at a hook point, in one line; None where it has nothing."""
    if analysis.gate is None:
        return "the gate was not run: whether the knowledge passes at this hook point is not known"
    measured = analysis.gate.at(found.hook_point, found.sae)
    if measured is None:
        return f"the gate was not run at {found.hook_point}"
    if measured.passes:
        return None
    advised = analysis.gate.recommended
    return f"the gate is not passed at {found.hook_point}: {'; '.join(measured.reasons)}" + (
        f" (it is at {advised})" if advised else ""
    )


@torch.no_grad()
def relative_change(model: nn.Module, reference: nn.Module, choice: str) -> tuple[int, float]:
    """Return how many parameters changed, and ||new - old|| / ||old|| over the trainable ones."""
    if choice == "lora":
        return adapter_change(model)
    before = trainable_parameters(reference, choice)
    moved: list[Tensor] = []
    size: list[Tensor] = []
    n_changed = 0
    for name, after in trainable_parameters(model, choice).items():
        gap = (after - before[name]).float()
        n_changed += int((gap != 0).sum())
        moved.append(gap.square().sum())
        size.append(before[name].float().square().sum())
    return n_changed, float((torch.stack(moved).sum() / torch.stack(size).sum().clamp_min(1e-30)).sqrt())


def check_outcome(problem: Problem) -> dict[str, Any]:
    """Refuse a run that changed nothing, and one that destroyed what was to be kept.

    The loss is taken over held-out known entities' prompts with their answers and over the general text.
    """
    config = problem.config
    n_changed, share = relative_change(problem.lm.model, problem.reference, config.train)
    if n_changed == 0 or share < SMALLEST_CHANGE:
        raise NoChangeError(
            "the run changed nothing",
            got=f"{n_changed} parameters changed, relative change {share:.2g}",
            expected=f"a relative change of at least {SMALLEST_CHANGE:g}",
            try_="a larger `lr` or more `steps`",
        )
    kept = problem.sets.holdout or problem.sets.retain
    windows = [e.ids for e in retained_prompts(problem.lm, kept[:64], problem.templates)] + problem.text[:128]
    after = text_loss(problem.lm, windows)
    before = text_loss(LanguageModel(problem.reference, problem.lm.tokenizer, "reference", problem.lm.device), windows)
    if not after <= before * (1 + config.max_loss_increase) + 0.1:
        raise CollapseError(
            "the model collapsed",
            got=f"retained loss {before:.3f} -> {after:.3f}",
            expected=f"a rise of at most {config.max_loss_increase:.0%}",
            try_=f"a smaller `lr` than {config.step_size(problem.lm.d_model):.2g} or a larger `retain_weight`",
        )
    return {
        "changed_parameters": n_changed,
        "relative_change": share,
        "retained_loss_before": before,
        "retained_loss_after": after,
    }


def _save(lm: LanguageModel, adapter: Any, out: Path, run: Run, base: Base, record: dict[str, Any]) -> None:
    """Write the model folder (or the adapter), then its records, then drop the working folder."""
    if record["result"]["is_adapter"]:
        save_adapter(adapter, lm.tokenizer, out, base)
    if adapter is not None:
        merge_adapter(adapter)
    if not record["result"]["is_adapter"]:
        save_lm(lm, out)
    run.finish(result=record["result"])
    write_json(out / RECORD, {**record, "model_hash": weights_hash(lm.model), "run_id": run.record["run_id"]})
    for name in ("run.json", "config.json", "metrics.jsonl"):
        target = "unlearn_config.json" if name == "config.json" else name
        shutil.copyfile(run.folder / name, out / target)
    shutil.rmtree(run.folder)
