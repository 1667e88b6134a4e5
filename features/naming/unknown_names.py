"""Names that nobody bears: pieces of real ones put together anew, as long in tokens as these are.

Whether a model takes them for unknown is not decided here: they are asked about and labelled like everybody.
"""

from __future__ import annotations

from collections.abc import Sequence

from features.entities.entities import Entity
from features.entities.name_tokens import name_lengths
from features.labels.made_up import made_up
from sae_train.lm.models import LanguageModel

CANDIDATES = 8  # made up for every one that is wanted, to choose from by length


def unknown_names(lm: LanguageModel, entities: Sequence[Entity], *, n: int, seed: int = 0) -> list[Entity]:
    """Return up to `n` made-up entities of one type, matched in token count.

    The i-th one has as many tokens as the i-th given name (in a circle), or, where no candidate has, as near to it as
    there is; two at least where any has: what is one token is a word that the tokenizer knows, "List" of Lisbon and
    Seattle.

    Args:
        lm: For its tokenizer.
        entities: Real names of one type, whose pieces are used.
        n: How many.
        seed: Of the pieces.

    Raises:
        EntityError: The names allow no other.
    """
    candidates = made_up(entities, n=n * CANDIDATES, seed=seed)
    aims, lengths = (name_lengths(lm, [e.name for e in some]) for some in (entities, candidates))
    left = [i for i, length in enumerate(lengths) if length > 1] or list(range(len(candidates)))
    chosen: list[Entity] = []
    for place in range(min(n, len(left))):
        aim = aims[place % len(aims)]
        best = min(left, key=lambda i: (abs(lengths[i] - aim), i))
        left.remove(best)
        chosen.append(candidates[best])
    return chosen
