"""`plan_unlearning`: what a removal with these settings would take, from its own model and losses; nothing is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from features.analysis.store import LatentAnalysis
from features.entities.entities import Entity
from features.entities.templates import Templates
from sae_train.errors import ConfigError
from sae_train.fields import config_of
from sae_train.lm.models import LanguageModel
from sae_train.saes.base import Sae
from sae_train.text.tokens import Document
from unlearn.config import UnlearnConfig, configure
from unlearn.finetuning.finetune import WeightEdit
from unlearn.finetuning.step_plan import StepPlan, plan_steps
from unlearn.methods import build_method
from unlearn.removals.run import adapter_for, check_trainable, prepare
from unlearn.removals.unlearned import Unlearned
from unlearn.removals.unlearning import known_of, task_of


def plan_unlearning(
    lm: LanguageModel | Unlearned | str | Path,
    latents: LatentAnalysis | str | Path | None,
    *,
    forget: str | Sequence[str],
    sae: Sae | str | Path | Sequence[Sae | str | Path] | None = None,
    labels: Sequence[Entity] | str | Path | None = None,
    templates: Templates | str | Path | None = None,
    text: str | Path | Iterable[str | Document] | None = None,
    original: LanguageModel | str | Path | None = None,
    config: UnlearnConfig | None = None,
    device: str = "auto",
    **settings: Any,
) -> StepPlan:
    """Return steps, seconds and peak memory of `unlearn` with the same arguments; two batches are tried out.

    The steps alone are counted: not what is asked or solved before the first one, and not the checks behind the last.
    It takes the model's weights and one batch's working memory, no second copy, gradient or moments.

    Raises:
        ConfigError: The method takes no steps, or a setting cannot be used.
        InputError: Something that goes in cannot be used.
    """
    chosen = config_of(UnlearnConfig, config, settings, build=configure)
    known, names, documents = known_of(latents, sae, labels, templates, forget, text)
    task = task_of(lm, known, names, chosen, documents, original=original, device=device, is_told=True)
    check_trainable(task.lm, chosen)
    problem = prepare(task, is_dry=True).problem
    adapter_for(problem.lm, chosen)
    method = build_method(problem)
    if isinstance(method, WeightEdit):
        raise ConfigError(
            f"{chosen.method} takes no optimizer steps that could be planned",
            got=chosen.method,
            field="method",
            expected="a method that fine-tunes",
        )
    return plan_steps(problem.lm, [problem.reference, problem.original], method, chosen)
