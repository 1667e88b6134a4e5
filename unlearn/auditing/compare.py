"""Measure other models, such as baselines or published unlearned models, on the same removal request.

What is said, what is kept, what is still inside and what relearning brings back, by the evaluations of the audit and
with its groups, wordings, draws and original model. No verdict: for one, a model is audited on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from sae_train.lm.models import LanguageModel, weights_hash
from sae_train.run.progress import Advance, no_advance
from unlearn.auditing.audit_figures import Walk
from unlearn.auditing.audit_report import ComparedModel
from unlearn.auditing.audit_run import run_parts
from unlearn.auditing.context import AuditContext
from unlearn.auditing.roles import check_pair

EVALUATED = ("recall", "ranking", "utility", "behaviour", "indistinguishability", "walk")
ATTACKED = ("relearn",)
PRICE = ("utility", "behaviour")  # without which no figure of the inside is taken: a destroyed model would look well
INSIDE = ("indistinguishability", "walk")
GROUPS = ("forget", "neighbours", "retain")
FIGURES = ("ranking_chance", "utility", "behaviour", "indistinguishability", "two_sample_p", "probe")
KEPT = (*GROUPS, *FIGURES, "walk", "attacks")  # parts of what was found


@dataclass(frozen=True)
class Other:
    """One model to be compared with.

    Attributes:
        path: What was given: a folder, file or hub id.
        load: Loads it; called once, when its turn comes, and the model is let go again.
        method: What made it, if that is recorded.
    """

    path: str
    load: Callable[[], LanguageModel]
    method: str = "not recorded"


def compare_models(
    context: AuditContext, others: Sequence[Other], *, own: str = "", advance: Advance = no_advance
) -> dict[str, ComparedModel]:
    """Return by name what the same questions and places show of other models.

    Args:
        context: Of the audit; answers and activations of the original model are shared with it.
        others: The models.
        own: Path of the audited model: no other is called as it is.
        advance: Called with what is measured, before it is.

    Returns:
        Per model the parts that `KEPT` names: of attacks relearning only, of the walk the points after alone, since
        clouds and `before` are those of the audit.

    Raises:
        ShapeError: A model is no pair with the original one.
    """
    names = short_names([own, *(o.path for o in others)])[1:]
    return {name: _measure(context, other, name, advance) for name, other in zip(names, others, strict=True)}


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the last part of every path, and as much more of it as tells it from the others.

    Example:
        >>> short_names(["runs/a/unlearned", "runs/b/unlearned", "idk", "idk"])
        ['a/unlearned', 'b/unlearned', 'idk', 'idk (2)']
    """
    parts = [PurePath(p).parts or ("",) for p in paths]
    taken = [1] * len(paths)
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p, n in zip(parts, taken, strict=True)]
        counts = Counter(names)
        taken = [depth + 1 if counts[name] > 1 else n for name, n in zip(names, taken, strict=True)]
    names = ["/".join(p[-n:]) for p, n in zip(parts, taken, strict=True)]
    again = [names[:i].count(name) + 1 for i, name in enumerate(names)]
    return [name if n == 1 else f"{name} ({n})" for name, n in zip(names, again, strict=True)]


def _measure(context: AuditContext, other: Other, name: str, advance: Advance) -> ComparedModel:
    """Load one model and run what is not skipped."""
    lm = other.load()
    check_pair(context.before, lm, field="compare")
    skip = context.config.skip
    left_out = {*skip, *(INSIDE if set(PRICE) & set(skip) else ())}
    shared = {
        "answers": {k: v for k, v in context.answers.items() if k[1] == "before"},
        "acts": {k: v for k, v in context.acts.items() if k[1] == "before"},
    }
    beside = replace(context, after=lm, untouched=[], config=replace(context.config, n_samples=0), **shared)
    parts = [p for p in (*EVALUATED, *ATTACKED) if p not in left_out]
    found, _ = run_parts(beside, parts, advance, model=name)
    context.answers.update({k: v for k, v in beside.answers.items() if k[1] == "before"})
    context.acts.update({k: v for k, v in beside.acts.items() if k[1] == "before"})
    kept = {part: value for part, value in found.parts().items() if part in KEPT}
    kept["walk"] = {block: Walk(after=panel.after) for block, panel in found.walk.items()}
    return ComparedModel(**kept, unlearned=other.path, unlearned_hash=weights_hash(lm.model), method=other.method)
