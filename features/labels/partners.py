"""Pair each known entity with an unknown one of the same type and with a similar name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from features.entities.entities import Entity
from features.entities.prompts import by_type
from features.labels.knowledge import is_right
from sae_train.errors import EntityError
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from sae_train.text.tokens import encode_plain

SAYS_IT = 100.0  # more than names can differ
LEEWAY = 1.0  # less than one name token more or less: balance may cost a shared token, never the length
PAIRINGS = 300  # that are looked at for the most balanced one


@dataclass(frozen=True)
class _Choice:
    """Targets of one type, the unknown entities they may be paired with, and how unlike each two are."""

    own: list[Entity]
    pool: list[Entity]
    cost: Float[np.ndarray, "own pool"]


def pair(
    lm: LanguageModel,
    targets: Sequence[Entity],
    unknown: Sequence[Entity],
    *,
    readings: Mapping[str, Float[np.ndarray, " d_in"]] | None = None,
    seed: int = 0,
) -> list[Entity]:
    """Pair every target with an unknown entity of its own type: same number of name tokens, shared tokens preferred.

    One of which the model says what is true of the target is no aim and comes last. Each unknown entity serves at most
    once where there are enough of them (linear assignment).

    With readings the partners are also balanced: together they have to be like the unknown entities that they are
    drawn from, or a classifier finds those who have become like them. Of `PAIRINGS` pairings, each the best one after a
    chance up to `LEEWAY` was added to every cost, the one with the smallest

        imbalance = mean_j (mean_i (r_ij - m_ij) / s_j)^2

    is taken: r_i the reading of target i's partner, m_i the mean of all unknown entities of that type, s the standard
    deviation over all of them.

    Args:
        lm: For its tokenizer.
        targets, unknown: The known entities, and the unknown ones to pair them with.
        readings: Activations of every unknown entity, by key.
        seed: Draws the pairings.

    Raises:
        EntityError: A type has no unknown entity.
    """
    choices = _choices(lm, targets, unknown)
    found = _assigned(choices)
    if readings is not None:
        generator = rng("pairing.assignments", seed)
        drawn = [found, *(_assigned(choices, generator) for _ in range(PAIRINGS))]
        centred = _centred({u.key: u for c in choices for u in c.pool}.values(), readings)
        found = min(drawn, key=lambda partners: _imbalance([p.key for p in partners.values()], centred))
    return [found[t.key] for t in targets]


def _choices(lm: LanguageModel, targets: Sequence[Entity], unknown: Sequence[Entity]) -> list[_Choice]:
    """Return what there is to choose from, type by type."""
    ids = {e.key: encode_plain(lm.tokenizer, [" " + e.name])[0][0] for e in (*targets, *unknown)}
    found = []
    for kind in sorted({t.type for t in targets}):
        own = [t for t in targets if t.type == kind]
        pool = [u for u in unknown if u.type == kind]
        if not pool:
            raise EntityError(f"no unknown entity of type '{kind}' to aim at", got="0", expected=">= 1", field="labels")
        pool = pool * (-(-len(own) // len(pool)))
        cost = [[_name_distance(ids[t.key], ids[u.key]) + SAYS_IT * _says_answer(u, t) for u in pool] for t in own]
        found.append(_Choice(own, pool, np.array(cost)))
    return found


def _assigned(choices: Sequence[_Choice], generator: np.random.Generator | None = None) -> dict[str, Entity]:
    """Return the cheapest partners by the targets' keys; with a generator after some chance was added to the costs."""
    found: dict[str, Entity] = {}
    for choice in choices:
        chance = 0.0 if generator is None else LEEWAY * generator.random(choice.cost.shape)
        rows, columns = linear_sum_assignment(choice.cost + chance)
        found |= {choice.own[r].key: choice.pool[c] for r, c in zip(rows, columns, strict=True)}
    return found


def _centred(
    unknown: Collection[Entity], readings: Mapping[str, Float[np.ndarray, " d_in"]]
) -> dict[str, Float[np.ndarray, " d_in"]]:
    """Return readings less the mean of their type, in standard deviations over all of them."""
    rows = {u.key: np.asarray(readings[u.key], dtype=np.float64) for u in unknown}
    spread = np.maximum(np.std(list(rows.values()), axis=0), 1e-6)
    means = {kind: np.mean([rows[u.key] for u in members], axis=0) for kind, members in by_type([*unknown]).items()}
    return {u.key: (rows[u.key] - means[u.type]) / spread for u in unknown}


def _imbalance(keys: Sequence[str], centred: Mapping[str, Float[np.ndarray, " d_in"]]) -> float:
    """Return how far the mean of some unknown entities lies from that of all."""
    return float(np.square(np.mean([centred[key] for key in keys], axis=0)).mean())


def stand_ins(lm: LanguageModel, targets: Sequence[Entity], unknown: Sequence[Entity]) -> list[list[Entity]]:
    """Return for every target the unknown entities of its type with as many name tokens that say nothing true of it."""
    everybody = [*targets, *unknown]
    lengths = [len(ids) for ids in encode_plain(lm.tokenizer, [" " + e.name for e in everybody])[0]]
    of = {e.key: n for e, n in zip(everybody, lengths, strict=True)}
    return [
        [u for u in unknown if u.type == t.type and of[u.key] == of[t.key] and not _says_answer(u, t)] for t in targets
    ]


def _says_answer(unknown: Entity, target: Entity) -> float:
    """Return the share of the answers about an unknown entity that would be right about the target."""
    said = [(a, text) for a, texts in unknown.answers.items() for text in texts if a in target.facts]
    return sum(is_right(text, target.facts[a]) for a, text in said) / max(1, len(said))


def _name_distance(a: list[int], b: list[int]) -> float:
    """Return how unlike two tokenized names are: length first, then the last token, then shared tokens."""
    shared = len(set(a) & set(b)) / max(len(a), len(b))
    return 4.0 * abs(len(a) - len(b)) + (a[-1] != b[-1]) - shared
