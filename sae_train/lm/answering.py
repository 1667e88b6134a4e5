"""Answers of a language model: greedy and sampled in one pass, with a key-value cache.

What prompts have in common is computed once: the tokens that all prompts of a batch begin with, and a prompt itself
for all its samples. A row leaves the batch when its answer is over. Every question has its own random numbers, from the
seed and its tokens, so neither its neighbours in the batch nor the order of the questions decide what is drawn.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os.path import commonprefix
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_train.config import require
from sae_train.errors import ConfigError
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng

ROWS = 128  # answers written at the same time


@dataclass(frozen=True)
class Decoding:
    """How answers are written.

    Attributes:
        max_new_tokens: Longest answer.
        samples: Sampled answers per prompt, besides the greedy one.
        temperature: Logits are divided by it before a sample is drawn from all tokens.
        seed: Of the samples.
    """

    max_new_tokens: int = 12
    samples: int = 0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.samples >= 0, "--samples", self.samples, "0 or more")
        require(self.temperature > 0, "--temperature", self.temperature, "above 0; greedy answers are always there")


@dataclass(frozen=True)
class Written:
    """What a model wrote behind one prompt.

    Attributes:
        greedy: The likeliest token each time.
        samples: Drawn ones, `Decoding.samples` of them.
    """

    greedy: str
    samples: tuple[str, ...] = ()


def has_line_break(text: str) -> bool:
    """Tell whether an answer is over because it wrote a line break."""
    return "\n" in text


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield lists of indices of equal length, at most `batch_size` each.

    Example:
        >>> list(batches_by_length([3, 2, 3, 3], 2))
        [[1], [0, 2], [3]]
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        groups[length].append(index)
    for length in sorted(groups):
        group = groups[length]
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


@torch.no_grad()
def write_answers(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    is_over: Callable[[str], bool] = has_line_break,
    rows: int = ROWS,
) -> list[Written]:
    """Return what the model writes behind each prompt, without special tokens.

    Args:
        lm: The language model.
        prompts: Token ids, none of them empty.
        decoding: Length, number of samples, temperature, seed.
        is_over: Tells from the text so far that the rest of an answer is not wanted.
        rows: Answers written at the same time.

    Raises:
        ConfigError: The model keeps no cache of keys and values.
    """
    per_prompt = 1 + decoding.samples
    order = sorted(
        range(len(prompts)), key=lambda i: (len(prompts[i]), tuple(prompts[i]))
    )  # alike beginnings side by side
    found: list[Written] = [Written("")] * len(prompts)
    for places in batches_by_length([len(prompts[i]) for i in order], max(1, rows // per_prompt)):
        batch = [order[i] for i in places]
        uniform = np.stack([_uniform(prompts[i], decoding) for i in batch])
        texts = _write(lm, [prompts[i] for i in batch], uniform, decoding, is_over)
        for row, index in enumerate(batch):
            greedy, *drawn = texts[row * per_prompt : (row + 1) * per_prompt]
            found[index] = Written(greedy, tuple(drawn))
    return found


def _uniform(prompt: Sequence[int], decoding: Decoding) -> np.ndarray:
    """Return the random numbers of one question, (1 + samples, max_new_tokens); the greedy row uses none of its own."""
    generator = rng("answering.samples", decoding.seed, *prompt)
    drawn = generator.random((decoding.samples, decoding.max_new_tokens), dtype=np.float32)
    return np.concatenate([np.zeros((1, decoding.max_new_tokens), np.float32), drawn])


def _write(
    lm: LanguageModel,
    prompts: list[Sequence[int]],
    uniform: np.ndarray,
    decoding: Decoding,
    is_over: Callable[[str], bool],
) -> list[str]:
    """Write the answers of prompts of one length; row i of prompt p is p * (1 + samples) + i, row 0 the greedy one."""
    per_prompt = 1 + decoding.samples
    logits, cache = _read(lm, prompts)
    if per_prompt > 1:
        logits = logits.repeat_interleave(per_prompt, dim=0)
        cache.batch_repeat_interleave(per_prompt)
    draws = torch.from_numpy(uniform.reshape(-1, decoding.max_new_tokens)).to(lm.device)
    is_greedy = torch.arange(len(draws), device=lm.device) % per_prompt == 0
    ends, model = end_tokens(lm), cached_forward(lm)
    written: list[list[int]] = [[] for _ in range(len(draws))]
    texts = [""] * len(draws)
    alive = list(range(len(draws)))  # which answer each row of the batch is
    for step in range(decoding.max_new_tokens):
        tokens = _choose(logits, draws[alive, step], is_greedy[alive], decoding.temperature)
        for index, token in zip(alive, tokens.tolist(), strict=True):  # one transfer a step: which answers are over
            written[index].append(token)
        said = lm.tokenizer.batch_decode([written[i] for i in alive], skip_special_tokens=True)
        texts_now = dict(zip(alive, said, strict=True))
        for index, text in texts_now.items():
            texts[index] = text
        going = [r for r, i in enumerate(alive) if written[i][-1] not in ends and not is_over(texts[i])]
        if not going or step + 1 == decoding.max_new_tokens:
            break
        if len(going) < len(alive):
            keep = torch.tensor(going, device=lm.device)
            cache.batch_select_indices(keep)
            tokens, alive = tokens[keep], [alive[r] for r in going]
        logits = model(tokens.unsqueeze(1), cache)[0]
    return texts


def _read(lm: LanguageModel, prompts: list[Sequence[int]]) -> tuple[Float[Tensor, "batch vocab"], Any]:
    """Return the logits behind each prompt, and the cache; what all of them begin with is read once."""
    forward = cached_forward(lm)
    ids = torch.tensor([list(p) for p in prompts], device=lm.device)
    n_common = min(len(commonprefix([list(p) for p in prompts])), ids.shape[1] - 1) if len(prompts) > 1 else 0
    cache = None
    if n_common:
        _, cache = forward(ids[:1, :n_common], None)
        cache.batch_repeat_interleave(len(prompts))
    return forward(ids[:, n_common:], cache)


def cached_forward(lm: LanguageModel) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
    """Return a function (tokens, cache) -> (logits behind the last token, cache); no other logits are computed."""
    return partial(_forward, lm, logits_of_last(lm.model, 1))


def logits_of_last(model: nn.Module, n_tokens: int) -> dict[str, Tensor]:
    """Return the keyword that spares the logits of all tokens but the last ones; none where the model has no such.

    Places, not a number: by a number transformers takes a view, which torch multiplies row by row of the batch.
    """
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return {}
    return {"logits_to_keep": torch.arange(-n_tokens, 0)}


def _forward(lm: LanguageModel, last_only: dict[str, Tensor], tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Run the model on tokens behind a cache."""
    out = lm.model(input_ids=tokens, past_key_values=cache, use_cache=True, **last_only)
    if getattr(out, "past_key_values", None) is None:
        raise ConfigError(
            f"cannot write answers with '{lm.name}'", got=type(lm.model).__name__, expected="a model with a KV cache"
        )
    return out.logits[:, -1], out.past_key_values


def end_tokens(lm: LanguageModel) -> set[int]:
    """Return the tokens that end a text, the tokenizer's own and those of the model's settings (end of turn)."""
    model: Any = lm.model
    settings = getattr(model.generation_config, "eos_token_id", None)
    found = settings if isinstance(settings, list) else [settings]
    return {int(i) for i in (*found, lm.tokenizer.eos_token_id) if i is not None}


def _choose(
    logits: Float[Tensor, "row vocab"],
    uniform: Float[Tensor, " row"],
    is_greedy: Bool[Tensor, " row"],
    temperature: float,
) -> Int[Tensor, " row"]:
    """Return the likeliest token, or the first one whose cumulated probability exceeds the row's random number."""
    likeliest = logits.argmax(dim=-1)
    if bool(is_greedy.all()):
        return likeliest
    cumulated = (logits.float() / temperature).softmax(dim=-1).cumsum(dim=-1)
    target = (uniform * cumulated[:, -1]).unsqueeze(1)
    drawn = torch.searchsorted(cumulated, target, right=True).squeeze(1).clamp_max(logits.shape[1] - 1)
    return torch.where(is_greedy, likeliest, drawn)
