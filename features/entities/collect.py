"""Collect activations at names: language model + prompts -> rows per prompt and hook point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from features.entities.name_tokens import encode, span_of
from features.entities.prompts import Prompt
from sae_train.lm.models import LanguageModel
from sae_train.lm.token_acts import acts_at
from sae_train.run.progress import Advance, no_advance


@dataclass(frozen=True)
class TokenRows:
    """Activations at chosen tokens.

    Attributes:
        prompt: Index of each row's prompt, ascending, (n_rows,).
        position: Index of its token in the prompt, (n_rows,).
        acts: By hook point, (n_rows, d_in), float32 on the CPU.
    """

    prompt: np.ndarray
    position: np.ndarray
    acts: dict[str, Tensor]


def token_rows(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    hook_points: Sequence[str],
    *,
    position: str = "last",
    batch_size: int = 128,
    advance: Advance = no_advance,
) -> TokenRows:
    """Return the activations at the tokens that a position (`name_tokens.POSITIONS`) names, prompt by prompt.

    Raises:
        ConfigError: There is no such position.
    """
    read = encode(lm, prompts)
    where = [span_of(r, position) for r in read]
    acts = acts_at(lm, [r.ids for r in read], where, hook_points, batch_size=batch_size, advance=advance)
    return TokenRows(
        prompt=np.repeat(np.arange(len(where)), [len(w) for w in where]),
        position=np.array([t for w in where for t in w], dtype=np.int64),
        acts={name: torch.cat(rows) if rows else torch.empty(0, lm.d_model) for name, rows in acts.items()},
    )


def name_activations(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    hook_points: Sequence[str],
    *,
    position: str = "last",
    batch_size: int = 128,
    advance: Advance = no_advance,
) -> dict[str, Float[Tensor, "n_rows d_in"]]:
    """Return the activations at one token of each prompt, float32 on the CPU, a row per prompt.

    Args:
        lm, prompts, hook_points, batch_size, advance: As for `token_rows`.
        position: `last` (of the name), `first`, or `end` (of the prompt); `all` gives several rows per prompt, and
            whose they are is in what `token_rows` returns.
    """
    found = token_rows(lm, prompts, hook_points, position=position, batch_size=batch_size, advance=advance)
    return found.acts


def entity_means(acts: np.ndarray, entity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one point per entity, the mean over its contexts, (n_entities, d_in), and the keys, sorted."""
    keys, index = np.unique(entity, return_inverse=True)
    sums = np.zeros((len(keys), acts.shape[1]))
    np.add.at(sums, index, acts)
    return sums / np.bincount(index)[:, None], keys
