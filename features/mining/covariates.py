"""Confounders: do name length, token frequency or popularity explain what the selected latents separate?

Known and unknown entities are compared inside strata only: of one type, and of about the same value of the covariate
(fifths of its distribution). `all` stratifies by fifths of a propensity: the probability of being known that a
logistic regression on all covariates gives, fitted on the mining half (Rosenbaum & Rubin 1984). AUROC inside strata and
its p are van Elteren's (`hypothesis_tests.stratified_rank_test`). All of it on held-out entities.

Equal values are never parted, so that few values (name lengths) are matched exactly. Inside a fifth of a covariate with
many values, and of the propensity, some of the difference stays: fifths take away most of it, not all (Cochran 1968).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from features.entities.name_acts import NameData
from features.stats.hypothesis_tests import rank_test, stratified_rank_test
from features.stats.scoring import fitted_scores
from sae_train.activations.store import ActivationStore

N_STRATA = 5
MIN_ENTITIES = 20  # held out, of which the covariate is known
MAX_P = 0.05
ALL = "all"


@dataclass(frozen=True)
class CovariateEffect:
    """One row of the table `covariates`.

    Attributes:
        covariate: `name_tokens` (number of tokens of the name), `piece_frequency` (mean log10 share of the name's
            tokens in running text), `popularity` (as the label file gives it), or `all` of them.
        subject: `alone` (the covariate as a score; its AUROC says which way it leans), `selected` (the score of the
            selected set), `probe`, or a latent's number.
        auroc: AUROC of the subject, not adjusted; above 0.5 means higher at known names.
        p_value: Of that.
        stratified: AUROC inside strata; None for `alone`.
        stratified_p: Of that.
        survives: Whether it stays on its side of 0.5 with p <= 0.05 inside strata.
        n_entities: Held-out entities for which the covariate is known.
        n_strata: Strata that hold both classes.
    """

    covariate: str
    subject: str
    auroc: float
    p_value: float
    stratified: float | None
    stratified_p: float | None
    survives: bool | None
    n_entities: int
    n_strata: int


def name_covariates(data: NameData, store: ActivationStore | None) -> dict[str, Float[np.ndarray, " n_entities"]]:
    """Return the covariates of every entity, NaN where one is not known.

    The pieces' frequency needs a store made with the same model: other tokenizers number other pieces.
    """
    found = {"name_tokens": np.array([float(len(ids)) for ids in data.name_ids]), "popularity": data.popularity}
    if store is not None and store.attrs.get("model_hash") == data.attrs.get("model_hash"):
        found["piece_frequency"] = piece_frequency(
            data.name_ids, store.row_field("token_id")[store.row_field("from_entity") == 0]
        )
    return {name: found[name] for name in sorted(found) if np.isfinite(found[name]).any()}


def piece_frequency(name_ids: Sequence[np.ndarray], text: Int[np.ndarray, " n_tokens"]) -> np.ndarray:
    """Return the mean over a name's tokens of log10((c + 1/2) / n), c the token's count among n tokens of text.

    Example:
        >>> piece_frequency([np.array([1, 2])], np.array([1] * 50 + [2] * 5 + [3] * 45)).round(3).tolist()
        [-0.778]
    """
    if not len(text):
        return np.full(len(name_ids), np.nan)
    size = int(max([text.max(), *(ids.max() for ids in name_ids if len(ids))])) + 1
    # Half a count more, so that a token which the text lacks has a logarithm.
    share = np.log10((np.bincount(text, minlength=size) + 0.5) / len(text))
    return np.array([share[ids].mean() if len(ids) else np.nan for ids in name_ids])


def strata(values: Float[np.ndarray, " n"], kind: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return type times fifth of the values; equal values are never parted.

    Example:
        >>> strata(np.array([1.0, 1.0, 2.0, 9.0]), np.zeros(4, int)).tolist()
        [0, 0, 3, 4]
    """
    inner = np.unique(np.quantile(values, np.arange(1, N_STRATA) / N_STRATA))
    fifth = np.searchsorted(inner, values, side="left")
    return kind * (N_STRATA + 1) + fifth


def covariate_effects(
    covariates: Mapping[str, np.ndarray],
    subjects: Mapping[str, np.ndarray],
    is_known: Bool[np.ndarray, " n"],
    kind: Int[np.ndarray, " n"],
    held_out: Bool[np.ndarray, " n"],
) -> list[CovariateEffect]:
    """Return what each covariate tells alone and what is left of every subject where it is held fixed.

    Args:
        covariates: Values of every entity, NaN where not known.
        subjects: Scores of every entity by name: the selected set, single latents.
        is_known, kind, held_out: Class, type and half of every entity.
    """
    usable = {n: v for n, v in covariates.items() if _varies(v[held_out])}
    found: list[CovariateEffect] = []
    for name, values in {**usable, **_propensity(usable, is_known, held_out)}.items():
        rows = np.flatnonzero(held_out & np.isfinite(values))
        if 0 < is_known[rows].sum() < len(rows):
            table = {"alone": values, **subjects}
            found += _effects(name, {k: v[rows] for k, v in table.items()}, is_known[rows], kind[rows])
    return found


def _varies(values: np.ndarray) -> bool:
    """Tell whether enough entities have the covariate, and not all the same value."""
    known = values[np.isfinite(values)]
    return len(known) >= MIN_ENTITIES and float(np.ptp(known)) > 0


def _propensity(usable: Mapping[str, np.ndarray], is_known: np.ndarray, held_out: np.ndarray) -> dict[str, np.ndarray]:
    """Return the score of a logistic regression on all covariates; entities that lack one have none."""
    x = np.stack(list(usable.values()), axis=1) if usable else np.empty((len(is_known), 0))
    whole = np.isfinite(x).all(axis=1)
    fit_on = whole & ~held_out
    # The propensity of a single covariate would be that covariate over again.
    if x.shape[1] < 2 or not 0 < is_known[fit_on].sum() < fit_on.sum():
        return {}
    scores = np.full(len(x), np.nan)
    # Fitted on the mining half, as everything that is fitted.
    scores[whole] = fitted_scores(x[whole], is_known[whole], ~held_out[whole])[1]
    return {ALL: scores} if _varies(scores[held_out]) else {}


def _effects(
    name: str, subjects: dict[str, np.ndarray], is_known: np.ndarray, kind: np.ndarray
) -> list[CovariateEffect]:
    """Return the rows of one covariate; `alone` is the first subject."""
    table = csr_array(np.stack(list(subjects.values()), axis=1))
    stratum = strata(subjects["alone"], kind)
    plain, inside = rank_test(table, is_known), stratified_rank_test(table, is_known, stratum)
    # A stratum of one class compares nobody, so it does not count.
    n_strata = sum(bool(0 < is_known[stratum == h].sum() < (stratum == h).sum()) for h in np.unique(stratum))
    rows = []
    for i, subject in enumerate(subjects):
        before, after, p = float(plain.auroc[i]), float(inside.auroc[i]), float(inside.p_value[i])
        adjusted = (after, p, (before - 0.5) * (after - 0.5) > 0 and p <= MAX_P)
        rows.append(
            CovariateEffect(
                name,
                subject,
                before,
                float(plain.p_value[i]),
                *((None, None, None) if subject == "alone" else adjusted),
                n_entities=len(is_known),
                n_strata=n_strata,
            )
        )
    return rows
