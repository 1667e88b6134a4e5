"""One unlearning run, from the files to a saved model: problem, fine-tune, checks, output."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.entities import Entity
from features.prompts import Templates
from features.store import HookPointAnalysis, LatentAnalysis
from sae_train.errors import CollapseError, HookPointError, NoChangeError
from sae_train.lm.generate import text_loss
from sae_train.lm.hook_names import canonical_hook_point
from sae_train.lm.models import LanguageModel, save_lm, weights_hash
from sae_train.lm.tokens import Document
from sae_train.runs import Run, clear_output, file_hash, jsonable, text_hash, write_json
from sae_train.saes.interop import WEIGHTS, LoadedSae
from unlearn.config import UnlearnConfig
from unlearn.data import retained_prompts, split_sets, text_windows, without_targets
from unlearn.finetune import WeightEdit, checkpoint_folder, finetune, trainable_parameters
from unlearn.methods import build_method
from unlearn.problem import Problem
from unlearn.record import RECORD

TEXT_CTX = 64
TEXT_TOKENS = 60_000
SMALLEST_CHANGE = 1e-6  # relative; below it nothing was learned


def unlearn(
    lm: LanguageModel,
    saes: Sequence[LoadedSae],
    analysis: LatentAnalysis,
    labels: Sequence[Entity],
    templates: Templates,
    names: Sequence[str],
    config: UnlearnConfig,
    out: Path,
    *,
    documents: Iterable[Document] = (),
    resume: bool = False,
    overwrite: bool = False,
    advance: Callable[[int, dict[str, float]], None] = lambda n, terms: None,
) -> dict[str, Any]:
    """Make `lm` forget the named entities, in place, and write it to `out`.

    Returns:
        `model, method, steps, seconds, changed_parameters, relative_change, retained_loss_before, retained_loss_after`.

    Raises:
        EntityError: A target cannot be used.
        HookPointError: SAEs and latents do not fit.
        NoChangeError: Nothing was changed; no model is written.
        CollapseError: The retained text's loss rose too far; no model is written.
    """
    started = time.monotonic()
    loaded, latents = choose_hook_point(saes, analysis, config.hook_point)
    sets = split_sets(lm, labels, templates, analysis, names, retain_share=config.retain_share, seed=config.seed)
    reference = copy.deepcopy(lm.model)
    text = text_windows(lm.tokenizer, without_targets(documents, sets.forget), ctx_len=TEXT_CTX, max_tokens=TEXT_TOKENS)
    problem = Problem(lm, reference, sets, templates, loaded.sae, latents, text, config)
    inputs = {
        "model": lm.name,
        "model_hash": weights_hash(lm.model),
        "sae": str(loaded.folder),
        "sae_hash": file_hash(loaded.folder / WEIGHTS),
        "forget": [e.key for e in sets.forget],
        "partners": [e.key for e in sets.partner],
        "retain": [e.key for e in sets.retain],
        "text_hash": text_hash(str(window) for window in text),
        "n_text_windows": len(text),
    }
    if not resume:
        shutil.rmtree(checkpoint_folder(out), ignore_errors=True)  # what a run that failed left there
    run = Run(checkpoint_folder(out), config=config, command="unlearn", inputs=inputs)
    identity = {"config": json.dumps(jsonable(config)), "inputs": json.dumps(jsonable(inputs))}
    method = build_method(problem)
    if isinstance(method, WeightEdit):
        terms = method.edit()
        run.log(step=0, **terms)
    else:
        terms = finetune(lm, method, config, run, identity=identity, resume=resume, advance=advance)
    change = check_outcome(problem)
    result = {
        "model": str(out),
        "method": config.method,
        "steps": config.steps,
        "seconds": time.monotonic() - started,
        **change,
        "hook_point": latents.hook_point,
        "terms": terms,
    }
    clear_output(out, overwrite=overwrite)
    _save(lm, out, run, {"config": config, "inputs": inputs, "result": result})
    return result


def choose_hook_point(
    saes: Sequence[LoadedSae], analysis: LatentAnalysis, wanted: str | None
) -> tuple[LoadedSae, HookPointAnalysis]:
    """Return the SAE and the analysis to use: the hook point asked for, or the one whose latents tell most.

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
            got=f"{wanted or ', '.join(s.hook_point for s in saes)} (--hook-point, --sae)",
            expected=", ".join(f.hook_point for f in analysis.hook_points) + " (--latents)",
        )
    fitting = [(s, f) for s, f in usable if file_hash(s.folder / WEIGHTS) == f.sae_hash]
    if not fitting:
        loaded, found = usable[0]
        raise HookPointError(
            "the latents were mined with another SAE",
            got=f"{loaded.folder} at {found.hook_point} (--sae)",
            expected=f"the SAE called '{found.sae}' with weights {found.sae_hash[:12]}…",
        )
    return max(
        fitting,
        key=lambda sf: (sf[1].score.value if sf[1].score.value == sf[1].score.value else 0.0, sf[1].probe.value),
    )


@torch.no_grad()
def relative_change(model: nn.Module, reference: nn.Module, choice: str) -> tuple[int, float]:
    """Return how many parameters changed, and ||new - old|| / ||old|| over the trainable ones."""
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
            try_="a larger --lr or more --steps",
        )
    kept = problem.sets.holdout or problem.sets.retain
    windows = [e.ids for e in retained_prompts(problem.lm, kept[:64], problem.templates)] + problem.text[:256]
    after = text_loss(problem.lm, windows)
    before = text_loss(LanguageModel(problem.reference, problem.lm.tokenizer, "reference", problem.lm.device), windows)
    if not after <= before * (1 + config.max_loss_increase) + 0.1:
        raise CollapseError(
            "the model collapsed",
            got=f"retained loss {before:.3f} -> {after:.3f}",
            expected=f"a rise of at most {config.max_loss_increase:.0%}",
            try_="a smaller --lr or a larger --retain-weight",
        )
    return {
        "changed_parameters": n_changed,
        "relative_change": share,
        "retained_loss_before": before,
        "retained_loss_after": after,
    }


def _save(lm: LanguageModel, out: Path, run: Run, record: dict[str, Any]) -> None:
    """Write the model folder, then its records, then drop the working folder."""
    save_lm(lm, out)
    run.finish(result=record["result"])
    write_json(out / RECORD, {**record, "model_hash": weights_hash(lm.model), "run_id": run.record["run_id"]})
    for name in ("run.json", "config.json", "metrics.jsonl"):
        target = "unlearn_config.json" if name == "config.json" else name
        shutil.copyfile(run.folder / name, out / target)
    shutil.rmtree(run.folder)
