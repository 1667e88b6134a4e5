"""Pick latents on the mining half of the entities; report them on the half nobody picked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from features.entities import Entity
from features.separation import EntityLatents, Separation
from sae_train.errors import EntityError

_SPLIT_SALT = 0xE417


@dataclass(frozen=True)
class SelectionRule:
    """What a latent must do on the mining half to be selected.

    Attributes:
        top: At most this many per direction and hook point.
        max_q: Largest Benjamini-Hochberg q.
        min_separation: Smallest MaxMin separation. Below it a list stays empty: no latent tells the classes apart.
        max_general_rate: Largest share of running-text tokens on which it may fire; 1 switches the rule off.
    """

    top: int = 5
    max_q: float = 0.05
    min_separation: float = 0.1
    max_general_rate: float = 0.02


def split_entities(entities: Sequence[Entity], seed: int) -> np.ndarray:
    """Return which entities are held out, (n_entities,) bool: half of every (type, label) cell.

    Raises:
        EntityError: Fewer than two known or two unknown entities on a side.
    """
    generator = np.random.default_rng([_SPLIT_SALT, seed])
    held_out = np.zeros(len(entities), dtype=bool)
    cells: dict[tuple[str, str | None], list[int]] = {}
    for index, entity in enumerate(entities):
        cells.setdefault((entity.type, entity.label), []).append(index)
    for members in cells.values():
        held_out[generator.permutation(members)[: len(members) // 2]] = True
    for side, name in ((~held_out, "mining"), (held_out, "held-out")):
        for label in ("known", "unknown"):
            count = sum(1 for e, s in zip(entities, side, strict=True) if s and e.label == label)
            if count < 2:
                raise EntityError(
                    f"too few {label} entities in the {name} half", got=f"{count}", expected=">= 2 (--labels)"
                )
    return held_out


def select(
    scores: Separation, q: np.ndarray, general_rate: np.ndarray | None, rule: SelectionRule
) -> dict[str, list[int]]:
    """Return the selected latents by direction (`known`, `unknown`), best MaxMin separation first."""
    allowed = q <= rule.max_q
    if general_rate is not None:
        allowed &= general_rate <= rule.max_general_rate
    chosen = {}
    for direction, maxmin in (("known", scores.maxmin_known), ("unknown", scores.maxmin_unknown)):
        passing = np.flatnonzero(allowed & (maxmin >= rule.min_separation))
        chosen[direction] = [int(i) for i in passing[np.argsort(-maxmin[passing], kind="stable")][: rule.top]]
    return chosen


def selected_score(
    latents: EntityLatents, chosen: dict[str, list[int]], mean_active: Float[np.ndarray, " d_sae"]
) -> Float[np.ndarray, " n_entities"]:
    """Return sum over known latents of z / m minus the same over unknown ones, m the mean active value."""
    scaled = latents.value / np.maximum(mean_active, 1e-9)
    return scaled[:, chosen["known"]].sum(1) - scaled[:, chosen["unknown"]].sum(1)
