"""Benchmarks: tasks of EleutherAI's `lm-eval`, before and after, where requested (`AuditConfig.lm_eval`).

The package is optional and imported here only. A task is one of its names, whose data it downloads, or the path of a
task file (YAML), which may name local data and then needs no network. A task file can also name Python functions, which
are then run: use only files that you would run.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sae_train.errors import ConfigError, MissingFileError
from sae_train.lm.models import LanguageModel
from unlearn.auditing.audit_figures import TaskMetric, TaskResult
from unlearn.auditing.audit_report import Findings
from unlearn.auditing.context import AuditContext

INSTALL = "pip install 'sae-workbench[lm-eval]'"
BATCH_SIZE = 16
TASK_FILES = (".yaml", ".yml")


def evaluate_benchmarks(context: AuditContext) -> Findings | None:
    """Return per task the examples asked and every metric before and after, with its standard error."""
    tasks = context.config.lm_eval
    if not tasks:
        return None
    runs = {when: _run(context.model(when), tasks, context) for when in ("before", "after")}
    return Findings(lm_eval={task: _task(runs, task) for task in runs["after"]["results"]})


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse tasks that cannot be run, before anything else is.

    Raises:
        ConfigError: `lm-eval` is not installed, or has no task of that name.
        MissingFileError: A task file is not there.
    """
    if not tasks:
        return
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "lm-eval is not installed", got=f"{tasks[0]}", field="lm_eval", expected="the package lm-eval", try_=INSTALL
        )
    files = [t for t in tasks if t.endswith(TASK_FILES)]
    for path in files:
        if not Path(path).is_file():
            raise MissingFileError(f"no task file '{path}'", got=f"{path}", field="lm_eval", expected="a YAML file")
    named = [t for t in tasks if t not in files]
    for name in named:
        if name not in _manager(with_named=True).all_tasks:
            raise ConfigError(
                f"lm-eval has no task '{name}'",
                got=f"{name}",
                field="lm_eval",
                expected="a name that `lm-eval ls tasks` lists, or the path of a .yaml file",
            )


@cache
def _manager(*, with_named: bool) -> Any:
    """Return what knows the tasks; to list those that lm-eval brings takes seconds, and task files do not need it."""
    return import_module("lm_eval.tasks").TaskManager(include_defaults=with_named)


def _run(lm: LanguageModel, tasks: Sequence[str], context: AuditContext) -> dict[str, Any]:
    """Run the tasks on one model; model, tokenizer and torch's random state stay as they are."""
    wrapper = import_module("lm_eval.models.huggingface").HFLM
    with torch.random.fork_rng():
        return import_module("lm_eval").simple_evaluate(
            wrapper(pretrained=lm.model, tokenizer=copy.deepcopy(lm.tokenizer), batch_size=BATCH_SIZE),
            tasks=list(tasks),
            task_manager=_manager(with_named=any(not t.endswith(TASK_FILES) for t in tasks)),
            limit=context.config.lm_eval_limit,
            bootstrap_iters=0,  # metrics that are means have a standard error without it
            log_samples=False,
            random_seed=context.config.seed,
            numpy_random_seed=context.config.seed,
            torch_random_seed=context.config.seed,
            fewshot_random_seed=context.config.seed,
        )


def _task(runs: dict[str, dict[str, Any]], task: str) -> TaskResult:
    """Return one task."""
    metrics: dict[str, dict[str, float]] = {}
    for when, run in runs.items():
        for key, value in run["results"][task].items():
            name, _, kind = key.partition(",")  # "acc_stderr,none"
            if not kind or not isinstance(value, int | float):
                continue
            metric, is_error = name.removesuffix("_stderr"), name.endswith("_stderr")
            label = metric if kind == "none" else f"{metric} ({kind})"
            metrics.setdefault(label, {})[f"{when}_stderr" if is_error else when] = float(value)
    sizes = runs["after"].get("n-samples", {}).get(task, {})
    return TaskResult(sizes.get("effective"), {label: TaskMetric(**found) for label, found in metrics.items()})
