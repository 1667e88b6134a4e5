"""Token positions and blocks where targets are compared with unknown entities, one row per held-out context.

At every audited block: the last token of the name, each one before it that enough names have, the mean over the
name's tokens, and the last token of the question. At each SAE's hook point, at the last name token: its latents, and
its error term x - x_hat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from features.entities.entities import Entity
from features.entities.name_tokens import encode
from features.entities.prompts import Prompt, contexts
from sae_train.lm.models import LanguageModel
from sae_train.lm.token_acts import acts_at
from unlearn.auditing.context import MIN_ENTITIES, AuditContext

MAX_CONTEXTS = 4  # per entity
MAX_EARLIER = 3  # tokens before the last one of a name, each a place
BATCH_SIZE = 64
EMBEDDING = "embed"
EARLIER = ", name token -"
LAST, MEAN, END = range(3)  # rows of a prompt at a hook point


@dataclass(frozen=True)
class PlaceRows:
    """Activations of a group at every place.

    Attributes:
        prompts: One per row.
        entity: Key of each row's entity.
        acts: By place, (n_rows, width); NaN in rows of names too short to have it.
        n_tokens: Of each row's name.
    """

    prompts: list[Prompt]
    entity: np.ndarray
    acts: dict[str, Tensor]
    n_tokens: np.ndarray

    def having(self, place: str) -> np.ndarray:
        """Return which rows have a place."""
        return self.n_tokens > earlier_of(place)


def earlier_of(place: str) -> int:
    """Return how many tokens a place lies before the last one of the name.

    Example:
        >>> earlier_of("layers.3, name token -2"), earlier_of("layers.3, whole name")
        (2, 0)
    """
    _, is_earlier, number = place.partition(EARLIER)
    return int(number) if is_earlier else 0


def is_last_token(place: str) -> bool:
    """Tell whether a place is at the last token of the name: a block's activation, an SAE's latents or error.

    Example:
        >>> [is_last_token(p) for p in ("layers.3", "layers.3, SAE error", "layers.3, name token -1")]
        [True, True, False]
    """
    _, comma, kind = place.partition(", ")
    return not comma or kind.startswith("SAE")


def place_rows(context: AuditContext, group: str, when: str) -> PlaceRows:
    """Run a group's contexts through a model once and cut out every place."""
    return entity_rows(context, context.group(group), when)


def entity_rows(context: AuditContext, entities: Sequence[Entity], when: str) -> PlaceRows:
    """Return the same of any entities."""
    prompts = entity_prompts(context, entities)
    hooks = [s.hook_point for s in context.saes]
    read = _read(context.model(when), prompts, list(dict.fromkeys([*context.blocks, *hooks])))
    entity = np.array([p.entity for p in prompts])
    needed = min(MIN_ENTITIES, len(np.unique(entity)))
    earlier = [i for i in range(1, MAX_EARLIER + 1) if len(np.unique(entity[read.n_tokens > i])) >= needed]
    found: dict[str, Tensor] = {}
    for block in context.blocks:
        acts = read.acts[block]
        found |= {block: acts[LAST], f"{block}, whole name": acts[MEAN], f"{block}, end of question": acts[END]}
        found |= {f"{block}{EARLIER}{i}": acts[END + i] for i in earlier}
    for number, loaded in enumerate(context.saes, start=1):
        x = read.acts[loaded.hook_point][LAST]
        with torch.no_grad():
            latents = loaded.encode(x.to(context.after.device)).cpu()
            error = x - loaded.decode(latents.to(context.after.device)).cpu()
        name = f"{loaded.hook_point}, SAE{'' if len(context.saes) == 1 else f' {number}'}"
        found |= {f"{name} latents": latents, f"{name} error": error}
    return PlaceRows(prompts, entity, found, read.n_tokens)


def spelling_rows(context: AuditContext, group: str) -> PlaceRows:
    """Return, at one place called `spelling`, the mean of the original's embeddings of a group's name tokens."""
    prompts = place_prompts(context, group)
    read = _read(context.before, prompts, [EMBEDDING])
    entity = np.array([p.entity for p in prompts])
    return PlaceRows(prompts, entity, {"spelling": read.acts[EMBEDDING][MEAN]}, read.n_tokens)


def place_prompts(context: AuditContext, group: str) -> list[Prompt]:
    """Return the held-out contexts of a group that are read, at most `MAX_CONTEXTS` an entity."""
    return entity_prompts(context, context.group(group))


def entity_prompts(context: AuditContext, entities: Sequence[Entity]) -> list[Prompt]:
    """Return the same of any entities."""
    return [p for e in entities for p in contexts(e, context.templates, heldout=True)[:MAX_CONTEXTS]]


class _Read(NamedTuple):
    """What was read: by hook point the rows LAST, MEAN, END, then those of earlier name tokens; lengths of names."""

    acts: dict[str, Tensor]
    n_tokens: np.ndarray


def _read(lm: LanguageModel, prompts: Sequence[Prompt], hook_points: Sequence[str]) -> _Read:
    """Read the rows of every prompt."""
    encoded = encode(lm, prompts)
    places = [[*read.name, read.end] for read in encoded]
    acts = acts_at(lm, [read.ids for read in encoded], places, hook_points, batch_size=BATCH_SIZE)
    rows = {h: torch.full((END + 1 + MAX_EARLIER, len(prompts), lm.d_model), torch.nan) for h in hook_points}
    for hook_point, found in acts.items():
        for index, own in enumerate(found):
            name = own[:-1]
            rows[hook_point][: END + 1, index] = torch.stack([name[-1], name.mean(0), own[-1]])
            earlier = name[max(0, len(name) - 1 - MAX_EARLIER) : -1].flip(0)
            rows[hook_point][END + 1 : END + 1 + len(earlier), index] = earlier
    return _Read(rows, np.array([len(read.name) for read in encoded]))
