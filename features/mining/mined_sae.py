"""Mining of one SAE: scores of its latents first; after correction over all SAEs, selection and reports.

Everything is chosen and fitted on the mining half of the entities. On the held-out half it is only measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from features.analysis.store import HookPointAnalysis
from features.analysis.tables import Tables, rows_of
from features.config import SelectionRule
from features.entities.name_acts import NameData
from features.mining.controls import NameReadings, controls
from features.mining.covariates import covariate_effects
from features.mining.stability import left_out_rows
from features.stats.intervals import wilson
from features.stats.permutation import family_p, maxmin_null
from features.stats.probe import cross_validated_auroc
from features.stats.scoring import ScoreTerm, fitted_scores, readings, score_terms
from features.stats.selection import DIRECTIONS, allowed_latents, select, together
from features.stats.separation import EntityLatents, NameLatents, Separation, entity_latents, group_matrix, name_latents
from sae_train.activations.store import ActivationStore
from sae_train.errors import ShapeError
from sae_train.intervals import NO_INTERVAL
from sae_train.quality.evaluate import firing_rate
from sae_train.saes.base import Sae
from sae_train.saes.interop import sae_hash

GENERAL_ROWS = 200_000  # running-text rows on which general rates are measured


@dataclass(frozen=True)
class MinedSae:
    """The scores of one SAE, before the corrections over all of them.

    Attributes:
        loaded: The SAE.
        acts: Activations at its hook point, (n_contexts, d_in).
        contexts: Its latents in every context.
        names: Its latents and the activations, by entity.
        types: Names of the entities' types.
        mining, heldout: Scores on the two halves.
        general_rate: Share of running-text tokens on which each latent fires; None without a store.
        general_interval: Its 95 % interval, (2, d_sae).
        allowed: Which latents the rule on running text leaves, (d_sae,) bool.
    """

    loaded: Sae
    acts: Tensor
    contexts: NameLatents
    names: NameReadings
    types: list[str]
    mining: Separation
    heldout: Separation
    general_rate: np.ndarray | None
    general_interval: np.ndarray | None
    allowed: np.ndarray

    def null(self, labels: np.ndarray) -> np.ndarray:
        """Return the largest MaxMin over the allowed latents in each shuffle of the mining labels, (2, n_shuffles)."""
        rows = ~self.names.held_out
        return maxmin_null(self.names.latents.frac_firing[rows], labels, self.names.kind[rows], self.allowed)


def score_sae(
    loaded: Sae,
    data: NameData,
    held_out: np.ndarray,
    rule: SelectionRule,
    *,
    store: ActivationStore | None,
    seed: int,
) -> MinedSae:
    """Encode the names and score every latent on both halves.

    Raises:
        HookPointError: The activations were not read where the SAE reads.
        ShapeError: The SAE reads activations of another width.
    """
    acts = data.at(loaded.hook_point)
    if acts.shape[1] != loaded.d_in:
        raise ShapeError(
            f"the SAE does not fit the activations at {loaded.hook_point}",
            got=f"activations (contexts, {acts.shape[1]})",
            expected=f"(contexts, d_in = {loaded.d_in})",
        )
    is_known = np.array([e.label == "known" for e in data.entities])
    # -1 leaves held-out entities out of the means and standard deviations that are stored.
    contexts = name_latents(loaded, acts, data.entity, np.where(held_out, -1, np.where(is_known, 0, 1)), 2)
    types = list(dict.fromkeys(e.type for e in data.entities))
    names = _readings(data, contexts, acts, is_known, types, held_out, seed)
    rate, interval = _general_rate(loaded, store)
    return MinedSae(
        loaded=loaded,
        acts=acts,
        contexts=contexts,
        names=names,
        types=types,
        # Two halves: a latent scored on the entities that it was selected on looks better than it is.
        mining=names.scores(~held_out),
        heldout=names.scores(held_out),
        general_rate=rate,
        general_interval=interval,
        allowed=allowed_latents(None if interval is None else interval[0], loaded.d_sae, rule),
    )


def _readings(
    data: NameData,
    contexts: NameLatents,
    acts: Tensor,
    is_known: np.ndarray,
    types: list[str],
    held_out: np.ndarray,
    seed: int,
) -> NameReadings:
    """Average latents and activations over the contexts of each entity."""
    n = len(data.entities)
    return NameReadings(
        latents=entity_latents(contexts.contexts, data.entity, n),
        acts=group_matrix(data.entity, n, mean=True) @ acts.numpy().astype(np.float64),
        is_known=is_known,
        kind=np.array([types.index(e.type) for e in data.entities]),
        n_types=len(types),
        held_out=held_out,
        seed=seed,
    )


def _general_rate(loaded: Sae, store: ActivationStore | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the share of running-text rows on which each latent fires, and its interval.

    A row is a token, so that long documents count by their length; entity rows that were mixed in do not count.
    """
    if store is None or loaded.hook_point not in store.hook_points:
        return None, None
    # Entity rows that were mixed in would raise the rate of the very latents that are looked for.
    text_rows = store.row_field("from_entity") == 0
    n_rows = min(GENERAL_ROWS, int(text_rows.sum()))
    if not n_rows:
        return None, None
    rate = firing_rate(loaded, store, loaded.hook_point, text_rows, max_rows=GENERAL_ROWS).numpy()
    return rate, wilson(np.round(rate.astype(np.float64) * n_rows), n_rows)


def analyse_sae(
    mined: MinedSae,
    data: NameData,
    q: np.ndarray,
    null: np.ndarray | None,
    family: np.ndarray | None,
    null_p: Mapping[str, float],
    covariates: Mapping[str, np.ndarray],
    rule: SelectionRule,
) -> HookPointAnalysis:
    """Select on the mining half, measure on the held-out one, add the controls.

    Args:
        mined: The scores.
        data: The names.
        q: Corrected over the latents of all SAEs.
        null: This SAE's largest MaxMin of each shuffle, (2, n_shuffles).
        family: The largest over all SAEs.
        null_p: p of each direction's best MaxMin; a direction above the rule's stays empty.
        covariates: Of every entity.
        rule: What is selected.
    """
    names = mined.names
    # On the mining half alone; everything measured below on held-out entities is untouched by it.
    chosen = select(mined.mining, q, mined.allowed, rule, null_p)
    probe = _probe(names)
    score = _score(names, chosen)
    rows = mined.loaded.W_dec.detach().cpu()
    length = rows.norm(dim=1).clamp_min(1e-8)  # one for SAEs trained here, anything for imported ones
    observed = [mined.mining.maxmin(d) for d in DIRECTIONS]
    return HookPointAnalysis(
        hook_point=mined.loaded.hook_point,
        sae=mined.loaded.name,
        sae_hash=sae_hash(mined.loaded),
        mining=mined.mining,
        heldout=mined.heldout,
        q_value=q,
        general_rate=mined.general_rate,
        mean_active=_mean_active(names) * length.numpy(),
        pre_act_mean=mined.contexts.pre_act_mean,
        pre_act_std=mined.contexts.pre_act_std,
        W_dec=(rows / length[:, None]).numpy(),
        selected=chosen,
        probe=names.heldout(probe.entity),
        score=NO_INTERVAL if score is None else names.heldout(score.entity),
        fvu_at_names=mined.contexts.fvu,
        general_interval=mined.general_interval,
        maxmin_p=None if family is None else np.stack([family_p(o, f) for o, f in zip(observed, family, strict=True)]),
        null=null,
        entity_score=np.full(len(names.is_known), np.nan) if score is None else score.entity,
        entity_probe=probe.entity,
        mining_auroc={"probe": probe.mining_auroc} | ({} if score is None else {"score": score.mining_auroc}),
        tables=_tables(mined, data, chosen, probe, score, covariates, rule),
    )


@dataclass(frozen=True)
class _EntityScore:
    """A score of every entity, fitted on the mining half.

    Attributes:
        entity: The scores, (n_entities,).
        mining_auroc: Cross-validated on the mining half.
        terms: What it is made of; empty for the probe.
    """

    entity: np.ndarray
    mining_auroc: float
    terms: tuple[ScoreTerm, ...] = ()


def _probe(names: NameReadings) -> _EntityScore:
    """Fit the linear probe on whole activations."""
    penalty = names.penalty(names.acts)
    return _EntityScore(names.fitted(names.acts, penalty), _cross_validated(names.acts, names, penalty))


def _score(names: NameReadings, chosen: dict[str, list[int]]) -> _EntityScore | None:
    """Fit the score of the selected latents together; None where none was selected."""
    latents = together(chosen)
    if not latents:
        return None
    x = readings(names.latents.value, latents)
    penalty = names.penalty(x)
    fitted, score = fitted_scores(x, names.is_known, ~names.held_out, penalty)
    return _EntityScore(score, _cross_validated(x, names, penalty), tuple(score_terms(fitted, chosen)))


def _tables(
    mined: MinedSae,
    data: NameData,
    chosen: dict[str, list[int]],
    probe: _EntityScore,
    score: _EntityScore | None,
    covariates: Mapping[str, np.ndarray],
    rule: SelectionRule,
) -> Tables:
    """Return the small tables of one SAE: its score, the controls, covariates and what comes back elsewhere."""
    names = mined.names
    single = {str(j): readings(names.latents.value, [j])[:, 0] for j in together(chosen)}
    subjects = {**({} if score is None else {"selected": score.entity}), "probe": probe.entity, **single}
    effects = covariate_effects(covariates, subjects, names.is_known, names.kind, names.held_out)
    return {
        "score": rows_of(() if score is None else score.terms),
        "controls": rows_of(controls(names, mined.mining, chosen, rule)),
        "covariates": rows_of(effects),
        "stability": rows_of(left_out_rows(data, mined.contexts, names, mined.types, chosen, mined.allowed, rule)),
    }


def _cross_validated(x: np.ndarray, names: NameReadings, penalty: float) -> float:
    """Return the cross-validated AUROC of readings of the mining entities."""
    rows = np.flatnonzero(~names.held_out)
    return cross_validated_auroc(x[rows], names.is_known[rows], rows, seed=names.seed, c=penalty)


def _mean_active(names: NameReadings) -> np.ndarray:
    """Return the mean latent where it is active, at known and at unknown mining names, (2, d_sae)."""

    def mean(latents: EntityLatents) -> np.ndarray:
        share, value = (np.asarray(m.sum(axis=0)).ravel() for m in (latents.frac_firing, latents.value))
        # The mean where it is active: multiples of it are comparable between models, raw steering strengths are not.
        return np.where(share > 0, value / np.maximum(share, 1e-9), 0.0)

    sides = (names.is_known, ~names.is_known)
    return np.stack([mean(names.latents.take(side & ~names.held_out)) for side in sides])
