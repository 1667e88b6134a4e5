"""Activations at names: language model + prompts -> rows per prompt and hook point.

Where a token lies is decided by the character offsets of the tokenizer: a token belongs to a name if it stands for one
of its characters. Tokens that share a character (the bytes of an accent) all do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from features.prompts import Prompt, tokenize
from sae_train.errors import ConfigError, nearest_first
from sae_train.lm.answering import batches_by_length
from sae_train.lm.hooks import capture
from sae_train.lm.models import LanguageModel

Span = list[int]


def _name_span(prompt: Prompt, offsets: Sequence[tuple[int, int]]) -> Span:
    """Return the tokens that stand for a character of the name."""
    found = [i for i, (a, b) in enumerate(offsets) if a < prompt.name_end and b > max(a, prompt.name_start)]
    assert found, f"no token of the name in {prompt.text[prompt.name_start : prompt.name_end]!r}: {offsets}"
    return found


POSITIONS: dict[str, Callable[[Prompt, Sequence[tuple[int, int]]], Span]] = {
    "last": lambda prompt, offsets: _name_span(prompt, offsets)[-1:],  # last token of the name
    "first": lambda prompt, offsets: _name_span(prompt, offsets)[:1],  # first token of the name
    "all": _name_span,  # every token of the name
    "end": lambda prompt, offsets: [len(offsets) - 1],  # last token of the whole prompt, behind the name
}


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


def token_positions(lm: LanguageModel, prompts: Sequence[Prompt], position: str = "last") -> list[Span]:
    """Return the tokens of each prompt that a position names.

    Args:
        lm: For its tokenizer.
        prompts: Texts with a name.
        position: An entry of `POSITIONS`.

    Raises:
        ConfigError: There is no such position.
    """
    return _placed(lm, prompts, position)[1]


def name_token_index(lm: LanguageModel, prompts: Sequence[Prompt]) -> tuple[list[list[int]], list[int]]:
    """Tokenize prompts and find the last token of each name.

    Returns:
        Token ids behind the prefix token, and the index of the last name token in them.
    """
    ids, where = _placed(lm, prompts, "last")
    return ids, [w[-1] for w in where]


def _placed(lm: LanguageModel, prompts: Sequence[Prompt], position: str) -> tuple[list[list[int]], list[Span]]:
    """Return token ids and chosen tokens."""
    if position not in POSITIONS:
        raise ConfigError(
            f"no position '{position}' in a prompt", got=position, expected=nearest_first(position, POSITIONS)
        )
    read = tokenize(lm.tokenizer, prompts)
    return read.ids, [POSITIONS[position](p, o) for p, o in zip(prompts, read.offsets, strict=True)]


@torch.no_grad()
def token_rows(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    hook_points: Sequence[str],
    *,
    position: str = "last",
    batch_size: int = 128,
    advance: Callable[[int], None] = lambda n: None,
) -> TokenRows:
    """Return the activations at the tokens a position names, prompt by prompt.

    A prompt is run only up to its last chosen token: what comes later cannot change what lies there.

    Raises:
        ConfigError: There is no such position.
    """
    ids, where = _placed(lm, prompts, position)
    upto = [i[: w[-1] + 1] for i, w in zip(ids, where, strict=True)]
    rows: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(upto) for name in hook_points}
    for batch in batches_by_length([len(i) for i in upto], batch_size):
        tokens = torch.tensor([upto[i] for i in batch], device=lm.device)
        acts = capture(lm, tokens, torch.ones_like(tokens), hook_points)
        at_row = torch.tensor([r for r, i in enumerate(batch) for _ in where[i]], device=lm.device)
        at_token = torch.tensor([t for i in batch for t in where[i]], device=lm.device)
        counts = [len(where[i]) for i in batch]
        for name in hook_points:
            parts = acts[name][at_row, at_token].float().cpu().split(counts)
            for index, part in zip(batch, parts, strict=True):
                rows[name][index] = part
        advance(len(batch))
    return TokenRows(
        prompt=np.repeat(np.arange(len(where)), [len(w) for w in where]),
        position=np.array([t for w in where for t in w], dtype=np.int64),
        acts={name: torch.cat(found) if found else torch.empty(0, lm.d_model) for name, found in rows.items()},
    )


def name_activations(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    hook_points: Sequence[str],
    *,
    position: str = "last",
    batch_size: int = 128,
    advance: Callable[[int], None] = lambda n: None,
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
