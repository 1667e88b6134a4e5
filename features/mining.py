"""Find the latents that tell known from unknown entities: activations at names -> statistics -> selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from features.config import SelectionRule
from features.covariates import name_covariates
from features.entities import Entity
from features.hypothesis_tests import q_values
from features.mined_sae import MinedSae, analyse_sae, score_sae
from features.name_acts import NameData, collect_names
from features.permutation import family_p, shuffled_labels
from features.prompts import Templates, check_types
from features.selection import DIRECTIONS, split_entities
from features.stability import other_sae_rows
from features.store import HookPointAnalysis, LatentAnalysis
from features.tables import rows_of
from sae_train.activations.store import ActivationStore
from sae_train.lm.hooks import check_hook_point
from sae_train.lm.models import LanguageModel
from sae_train.saes.base import Sae


@dataclass(frozen=True)
class Finding:
    """Is there a latent for this direction at all? One row of the table `finding`.

    Attributes:
        direction: `known` or `unknown`.
        found: Whether any was selected.
        n_selected: How many, over all hook points.
        best_maxmin: Largest MaxMin separation on the mining half, over all latents the rule on running text allows.
        hook_point, latent: Where.
        null_95: What the largest one stays below in 95 % of label shuffles.
        p_value: (1 + shuffles that reach it) / (1 + shuffles).
        n_shuffles: Label shuffles.
        sentence: The same in words.
    """

    direction: str
    found: bool
    n_selected: int
    best_maxmin: float
    hook_point: str
    latent: int
    null_95: float
    p_value: float
    n_shuffles: int
    sentence: str


def find_entity_latents(
    lm: LanguageModel,
    saes: Sequence[Sae],
    labels: Sequence[Entity],
    templates: Templates,
    rule: SelectionRule,
    *,
    store: ActivationStore | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> LatentAnalysis:
    """Read the activations at names and mine every SAE.

    Raises:
        EntityError: Too few known or unknown entities, or a type without templates.
        HookPointError: An SAE reads where the model has no such hook point.
    """
    hook_points = [check_hook_point(lm.model, s.hook_point, model_name=lm.name) for s in saes]
    labelled = [e for e in labels if e.label in ("known", "unknown")]
    check_types(labelled, templates)
    split_entities(labelled, seed)  # too few are refused before the model reads anything
    data = collect_names(lm, labels, templates, list(dict.fromkeys(hook_points)), advance=advance)
    return mine_names(data, saes, rule, store=store, seed=seed)


def mine_names(
    data: NameData,
    saes: Sequence[Sae],
    rule: SelectionRule,
    *,
    store: ActivationStore | None = None,
    seed: int = 0,
) -> LatentAnalysis:
    """Mine every SAE on one half of the entities and report on the other; needs no language model.

    Args:
        data: Activations at names, at least at the SAEs' hook points.
        saes: The SAEs; several of one hook point are compared with each other.
        rule: What is selected.
        store: Running text, for the rate there and the pieces' frequency.
        seed: Of split, shuffles, random sets and bootstraps.

    Raises:
        EntityError: Too few known or unknown entities.
        HookPointError: The activations were not read where an SAE reads.
        ShapeError: An SAE reads activations of another width.
    """
    held_out = split_entities(data.entities, seed)
    mined = [score_sae(sae, data, held_out, rule, store=store, seed=seed) for sae in saes]
    q = q_values(np.concatenate([m.mining.p_value for m in mined]))
    per_sae = np.split(q, np.cumsum([m.loaded.d_sae for m in mined])[:-1])
    names = mined[0].names
    labels = shuffled_labels(names.is_known[~held_out], names.kind[~held_out], rule.n_shuffles, seed)
    nulls = [m.null(labels) for m in mined]
    family = np.max(nulls, axis=0)
    best = [_best(direction, mined, family[side]) for side, direction in enumerate(DIRECTIONS)]
    null_p = {b.direction: b.p_value for b in best}
    covariates = name_covariates(data, store)
    found = [
        analyse_sae(m, data, q_part, null, family, null_p, covariates, rule)
        for m, q_part, null in zip(mined, per_sae, nulls, strict=True)
    ]
    for one in found:
        others = [o for o in found if o is not one and o.hook_point == one.hook_point]
        one.tables["stability"] += rows_of([row for o in others for row in other_sae_rows(one, o)])
    return LatentAnalysis(
        hook_points=found,
        entity_keys=[e.key for e in data.entities],
        entity_labels=[str(e.label) for e in data.entities],
        entity_types=[e.type for e in data.entities],
        held_out=held_out,
        types=mined[0].types,
        attrs={
            **data.attrs,
            "seed": seed,
            "rule": asdict(rule),
            "n_shuffles": rule.n_shuffles,
            "templates": data.templates,
            "store": None if store is None else store.identity(),
        },
        covariates=covariates,
        tables={"finding": rows_of([_with_selected(b, found, rule) for b in best])},
    )


def _best(direction: str, mined: Sequence[MinedSae], null: np.ndarray) -> Finding:
    """Return the best MaxMin separation of a direction and what label shuffles give, before anything is selected."""
    values = [np.where(m.allowed, m.mining.maxmin(direction), -1.0) for m in mined]
    at = int(np.argmax([v.max() for v in values]))
    latent = int(values[at].argmax())
    best = float(values[at][latent])
    return Finding(
        direction=direction,
        found=False,
        n_selected=0,
        best_maxmin=best,
        hook_point=mined[at].loaded.hook_point,
        latent=latent,
        null_95=float(np.quantile(null, 0.95)),
        p_value=float(family_p(np.array([best]), null)[0]),
        n_shuffles=len(null),
        sentence="",
    )


def _with_selected(best: Finding, found: Sequence[HookPointAnalysis], rule: SelectionRule) -> Finding:
    """Add what was selected, and say it in words."""
    n = sum(len(f.selected[best.direction]) for f in found)
    against = f"best MaxMin separation {best.best_maxmin:.3f}, label shuffles stay below {best.null_95:.3f} in 95 %"
    if n:
        said = f"{n} latent{'s' if n > 1 else ''} for {best.direction}: {against}"
    elif best.p_value > rule.max_null_p:
        said = f"no latent for {best.direction}: {against} (p {best.p_value:.2g})"
    else:
        said = f"no latent for {best.direction}: {against}, and none passes the rule (separation {rule.min_separation})"
    return replace(best, found=n > 0, n_selected=n, sentence=said)
