"""Which unknown entity stands for which known one: same type, names as alike as there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from features.entities import Entity
from features.knowledge import is_right
from sae_train.errors import EntityError
from sae_train.lm.models import LanguageModel
from sae_train.lm.tokens import encode_plain

SAYS_IT = 100.0  # more than names can differ


def pair(lm: LanguageModel, targets: Sequence[Entity], unknown: Sequence[Entity]) -> list[Entity]:
    """Pair every target with an unknown entity of its own type: same number of name tokens, shared tokens preferred.

    One of which the model says what is true of the target is no aim and comes last. Each unknown entity serves at most
    once where there are enough of them (linear assignment).

    Raises:
        EntityError: A type has no unknown entity.
    """
    ids = {e.key: encode_plain(lm.tokenizer, [" " + e.name])[0][0] for e in (*targets, *unknown)}
    found: dict[str, Entity] = {}
    for kind in {t.type for t in targets}:
        own = [t for t in targets if t.type == kind]
        pool = [u for u in unknown if u.type == kind]
        if not pool:
            raise EntityError(f"no unknown entity of type '{kind}' to aim at", got="0", expected=">= 1 (--labels)")
        pool = pool * (-(-len(own) // len(pool)))
        cost = np.array(
            [[_name_distance(ids[t.key], ids[u.key]) + SAYS_IT * _says_answer(u, t) for u in pool] for t in own]
        )
        rows, columns = linear_sum_assignment(cost)
        found |= {own[r].key: pool[c] for r, c in zip(rows, columns, strict=True)}
    return [found[t.key] for t in targets]


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
