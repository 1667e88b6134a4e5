"""Stability of the selection: mine again without one template, without one type, or with another SAE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from features.analysis.store import HookPointAnalysis
from features.config import SelectionRule
from features.entities.name_acts import NameData
from features.mining.controls import NameReadings
from features.stats.hypothesis_tests import q_values
from features.stats.probe import auroc
from features.stats.scoring import fitted_scores, readings
from features.stats.selection import DIRECTIONS, select, together
from features.stats.separation import EntityLatents, NameLatents, entity_latents
from sae_train.saes.comparison import TWIN_COSINE, unit_rows

MAX_TEMPLATES = 12  # left out one at a time; of more, this many spread evenly


@dataclass(frozen=True)
class StabilityRow:
    """One row of the table `stability`.

    Attributes:
        kind: `template` or `type` (left out), `sae` (mined with another SAE of the same hook point).
        left_out: Which one.
        direction: `known` or `unknown`.
        n_selected: Latents selected with everything.
        n_back: Those of them that are selected again; with another SAE: whose nearest decoder row there has a cosine
            of at least 0.7 and is selected there for the same direction.
        n_again: Latents selected this time.
        auroc: Of the latents selected without a type, at held-out entities of that type; None otherwise.
        cosine: Mean cosine of the selected latents with their nearest in the other SAE; None otherwise.
    """

    kind: str
    left_out: str
    direction: str
    n_selected: int
    n_back: int
    n_again: int
    auroc: float | None = None
    cosine: float | None = None


def left_out_rows(
    data: NameData,
    found: NameLatents,
    names: NameReadings,
    types: Sequence[str],
    chosen: dict[str, list[int]],
    allowed: np.ndarray,
    rule: SelectionRule,
) -> list[StabilityRow]:
    """Mine one SAE again without each template, and without each type.

    q is over this SAE's latents alone and nothing is shuffled again, so that only what was left out differs.
    """
    rows: list[StabilityRow] = []
    mining = ~names.held_out
    for template, use in _template_folds(data):
        # The SAE is not run again: an entity's latents are averaged anew over the contexts that are left.
        latents = entity_latents(found.contexts, data.entity, len(data.entities), use)
        again = _mine(latents, names, mining, allowed, rule)
        rows += _rows("template", f"template {template + 1} of each type", chosen, again)
    if len(types) > 1:
        for t, name in enumerate(types):
            # A latent that comes back without a type is not one of that type's names alone.
            again = _mine(names.latents, names, mining & (names.kind != t), allowed, rule)
            rows += _rows("type", name, chosen, again, _transfer(names, t, again))
    return rows


def _template_folds(data: NameData) -> Iterator[tuple[int, np.ndarray]]:
    """Yield templates with the contexts that are left without them; every entity keeps at least one."""
    n_templates = int(data.template.max()) + 1
    folds = np.unique(np.linspace(0, n_templates - 1, min(n_templates, MAX_TEMPLATES)).round().astype(int))
    for template in folds if n_templates > 1 else ():
        use = data.template != template
        if np.bincount(data.entity[use], minlength=len(data.entities)).all():
            yield int(template), use


def _mine(
    latents: EntityLatents, names: NameReadings, rows: np.ndarray, allowed: np.ndarray, rule: SelectionRule
) -> dict[str, list[int]]:
    """Select on some of the entities."""
    is_known = names.is_known[rows]
    # With fewer than two of either class there is no test.
    if not 1 < is_known.sum() < len(is_known) - 1:
        return {direction: [] for direction in DIRECTIONS}
    scores = names.scores(rows, latents)
    return select(scores, q_values(scores.p_value), allowed, rule)


def _transfer(names: NameReadings, kind: int, chosen: dict[str, list[int]]) -> float | None:
    """Return the AUROC at held-out entities of a type, of latents selected and weighed without it."""
    test = names.held_out & (names.kind == kind)
    latents = together(chosen)
    if not latents or not 0 < names.is_known[test].sum() < test.sum():
        return None
    # Neither selected nor weighed on the type that is tested: only so it shows transfer.
    fit_on = ~names.held_out & (names.kind != kind)
    _, scores = fitted_scores(readings(names.latents.value, latents), names.is_known, fit_on)
    return auroc(scores[test], names.is_known[test])


def _rows(
    kind: str,
    left_out: str,
    chosen: dict[str, list[int]],
    again: dict[str, list[int]],
    transferred: float | None = None,
) -> list[StabilityRow]:
    """Return one row per direction."""
    return [
        StabilityRow(
            kind, left_out, d, len(chosen[d]), len(set(chosen[d]) & set(again[d])), len(again[d]), auroc=transferred
        )
        for d in DIRECTIONS
    ]


def other_sae_rows(found: HookPointAnalysis, other: HookPointAnalysis) -> list[StabilityRow]:
    """Look for one SAE's selected latents among those of another SAE of the same hook point."""
    rows = []
    theirs = unit_rows(torch.from_numpy(other.W_dec))
    for direction in DIRECTIONS:
        chosen, selected = found.selected[direction], set(other.selected[direction])
        cosines = unit_rows(torch.from_numpy(found.W_dec[chosen])) @ theirs.T if chosen else torch.zeros(0, 1)
        nearest, at = (t.tolist() for t in cosines.max(dim=1))
        # Two SAEs number their latents differently: a latent is found again by its direction, and must be selected
        # there.
        back = sum(c >= TWIN_COSINE and j in selected for c, j in zip(nearest, at, strict=True))
        mean = float(np.mean(nearest)) if nearest else None
        rows.append(StabilityRow("sae", other.sae, direction, len(chosen), back, len(selected), cosine=mean))
    return rows
