"""Find latents that tell known from unknown entities: activations at names -> statistics -> selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from features.analysis.store import HookPointAnalysis, LatentAnalysis
from features.analysis.tables import rows_of
from features.config import SelectionRule
from features.entities.name_acts import NameData
from features.mining.covariates import name_covariates
from features.mining.failed_rule import failed_rule
from features.mining.mined_sae import MinedSae, analyse_sae, score_sae
from features.mining.stability import other_sae_rows
from features.stats.hypothesis_tests import q_values
from features.stats.permutation import family_p, shuffled_labels
from features.stats.selection import DIRECTIONS, split_entities
from sae_train.activations.store import ActivationStore
from sae_train.saes.base import Sae


@dataclass(frozen=True)
class Finding:
    """Whether any latent was found for one direction: one row of the table `finding`.

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
    # Before any score: what is selected on one half is reported on the other, which had no part in the selection.
    held_out = split_entities(data.entities, seed)
    mined = [score_sae(sae, data, held_out, rule, store=store, seed=seed) for sae in saes]
    corrected = _corrected(mined, rule, seed)
    covariates = name_covariates(data, store)
    found = _analysed(mined, data, corrected, covariates, rule)
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
        tables={"finding": rows_of([_with_selected(b, mined, corrected, found, rule) for b in corrected.best])},
    )


@dataclass(frozen=True)
class _Corrected:
    """What is corrected over the latents of all SAEs together.

    Attributes:
        q_value: Benjamini-Hochberg q of each SAE's latents.
        nulls: Largest MaxMin of each SAE in each label shuffle, (2, n_shuffles).
        family: The largest over all SAEs, (2, n_shuffles).
        best: The best separation of each direction against it.
    """

    q_value: list[np.ndarray]
    nulls: list[np.ndarray]
    family: np.ndarray
    best: list[Finding]


def _corrected(mined: Sequence[MinedSae], rule: SelectionRule, seed: int) -> _Corrected:
    """Correct p-values over the latents of all SAEs, and compute the permutation null."""
    # Over all SAEs together: with more SAEs more latents pass by chance.
    q = q_values(np.concatenate([m.mining.p_value for m in mined]))
    per_sae = np.split(q, np.cumsum([m.loaded.d_sae for m in mined])[:-1])
    names = mined[0].names
    # The same shuffles for every SAE, so that the largest over all SAEs is taken inside one shuffle.
    labels = shuffled_labels(names.is_known[~names.held_out], names.kind[~names.held_out], rule.n_shuffles, seed)
    nulls = [m.null(labels) for m in mined]
    family = np.max(nulls, axis=0)
    best = [_best(direction, mined, family[side]) for side, direction in enumerate(DIRECTIONS)]
    return _Corrected(per_sae, nulls, family, best)


def _analysed(
    mined: Sequence[MinedSae],
    data: NameData,
    corrected: _Corrected,
    covariates: Mapping[str, np.ndarray],
    rule: SelectionRule,
) -> list[HookPointAnalysis]:
    """Select and measure in every SAE, and look for what is selected in the others of its hook point."""
    null_p = {b.direction: b.p_value for b in corrected.best}
    found = [
        analyse_sae(m, data, q, null, corrected.family, null_p, covariates, rule)
        for m, q, null in zip(mined, corrected.q_value, corrected.nulls, strict=True)
    ]
    for one in found:
        # Decoder rows are comparable at one hook point only.
        others = [o for o in found if o is not one and o.hook_point == one.hook_point]
        one.tables["stability"] += rows_of([row for o in others for row in other_sae_rows(one, o)])
    return found


def _best(direction: str, mined: Sequence[MinedSae], null: np.ndarray) -> Finding:
    """Return the best MaxMin separation of a direction and what label shuffles give, before anything is selected."""
    # -1 is the lowest separation there is: a latent that the rule leaves out is never the best.
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


def _with_selected(
    best: Finding,
    mined: Sequence[MinedSae],
    corrected: _Corrected,
    found: Sequence[HookPointAnalysis],
    rule: SelectionRule,
) -> Finding:
    """Add what was selected, or which rule nothing passes, and say it in words."""
    n = sum(len(f.selected[best.direction]) for f in found)
    said = f"best MaxMin separation {best.best_maxmin:.3f}, label shuffles stay below {best.null_95:.3f} in 95 %"
    if n:
        said = f"{n} latent{'s' if n > 1 else ''} for {best.direction}: {said}"
    else:
        maxmin = np.concatenate([m.mining.maxmin(best.direction) for m in mined])
        allowed, q = np.concatenate([m.allowed for m in mined]), np.concatenate(corrected.q_value)
        why = failed_rule(maxmin, q, allowed, best.p_value, rule)
        said = f"no latent for {best.direction}: {said}; {why}"
    return replace(best, found=n > 0, n_selected=n, sentence=said)
