"""Select latents on the mining half of the entities; report them on the held-out half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from features.config import SelectionRule
from features.entities.entities import Entity
from features.stats.separation import Separation
from sae_train.errors import EntityError
from sae_train.rng import rng

DIRECTIONS = ("known", "unknown")


def split_entities(entities: Sequence[Entity], seed: int) -> np.ndarray:
    """Return which entities are held out, (n_entities,) bool: half of every (type, label) cell.

    Raises:
        EntityError: Fewer than two known or two unknown entities on a side.
    """
    generator = rng("selection.halves", seed)
    held_out = np.zeros(len(entities), dtype=bool)
    cells: dict[tuple[str, str | None], list[int]] = {}
    for index, entity in enumerate(entities):
        cells.setdefault((entity.type, entity.label), []).append(index)
    for members in cells.values():
        held_out[generator.permutation(members)[: len(members) // 2]] = True
    for side, name in ((~held_out, "mining"), (held_out, "held-out")):
        for label in DIRECTIONS:
            count = sum(1 for e, s in zip(entities, side, strict=True) if s and e.label == label)
            if count < 2:
                raise EntityError(
                    f"too few {label} entities in the {name} half", got=f"{count}", expected=">= 2", field="labels"
                )
    return held_out


def allowed_latents(general_low: np.ndarray | None, d_sae: int, rule: SelectionRule) -> np.ndarray:
    """Return which latents the rule on running text leaves, (d_sae,) bool; all of them if no rate is known.

    Args:
        general_low: Lower end of the interval of each latent's rate, or None.
        d_sae: Number of latents.
        rule: The rule.
    """
    if general_low is None or rule.max_general_rate >= 1:
        return np.ones(d_sae, dtype=bool)
    return general_low <= rule.max_general_rate


def select(
    scores: Separation,
    q: np.ndarray,
    allowed: np.ndarray,
    rule: SelectionRule,
    null_p: Mapping[str, float] | None = None,
) -> dict[str, list[int]]:
    """Return the selected latents by direction (`known`, `unknown`), best MaxMin separation first.

    Args:
        scores: Of the mining half.
        q: Benjamini-Hochberg q of every latent.
        allowed: What the rule on running text leaves.
        rule: The rule.
        null_p: p of each direction's best MaxMin separation against label shuffles; None without shuffles.
    """
    chosen: dict[str, list[int]] = {}
    for direction in DIRECTIONS:
        maxmin = scores.maxmin(direction)
        passing = np.flatnonzero(allowed & (q <= rule.max_q) & (maxmin >= rule.min_separation))
        if null_p is not None and null_p[direction] > rule.max_null_p:
            passing = passing[:0]
        chosen[direction] = [int(i) for i in passing[np.argsort(-maxmin[passing], kind="stable")][: rule.top]]
    return chosen


def together(chosen: Mapping[str, Sequence[int]]) -> list[int]:
    """Return the selected latents of both directions as one list."""
    return [j for direction in DIRECTIONS for j in chosen[direction]]
