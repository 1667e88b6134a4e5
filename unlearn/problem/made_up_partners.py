"""Partners that nobody ever met: names of the pieces of unknown names, in no list that anybody has.

A target that is aimed at a labelled unknown name ends on top of it, and whoever knows the list sees that: nearer to an
unknown name than unknown names are among themselves (`auditing/evaluations/matched_null.py`). What lies where a name
lies that was dealt anew lies as any unknown name does.
"""

from __future__ import annotations

from features.entities.entities import Entity
from features.entities.prompts import by_type
from features.entities.templates import Templates
from features.labels.made_up import made_up
from sae_train.errors import EntityError
from sae_train.lm.models import LanguageModel
from unlearn.problem.data import UnlearnSets, balanced

# Made-up names of a type, out of which balanced partners of the same length are chosen.
LEAST_NAMES, MOST_NAMES, PER_TARGET = 20, 80, 16


def made_up_partners(lm: LanguageModel, sets: UnlearnSets, templates: Templates, *, seed: int) -> list[Entity]:
    """Return for every target a made-up name of its type, all together like the made-up names of that type.

    A type whose unknown names allow none, since they are too few or too much alike, keeps the partners that it has.

    Args:
        lm: Reads the names, so that together they are balanced (`features/labels/partners.py`).
        sets: The targets, their partners, and the unknown entities whose names are taken apart.
        templates: Contexts in which names are read.
        seed: Of all draws.
    """
    pool: list[Entity] = []
    taken = {e.name.casefold() for e in (*sets.forget, *sets.retain, *sets.holdout, *sets.earlier)}
    unknown = by_type(sets.unknown)
    for kind, targets in by_type(sets.forget).items():  # of other types nobody is in want of a name
        n_names = min(MOST_NAMES, max(LEAST_NAMES, PER_TARGET * len(targets)))
        try:
            found = made_up(unknown.get(kind, []), n=n_names, seed=seed)
        except EntityError:
            continue
        pool += [e for e in found if e.name.casefold() not in taken]
    dealt = {e.type for e in pool}
    own = [t for t in sets.forget if t.type in dealt]
    new = dict(zip([t.key for t in own], balanced(lm, own, pool, templates, seed) if own else [], strict=True))
    return [new.get(t.key, partner) for t, partner in zip(sets.forget, sets.partner, strict=True)]
