"""Answers of a language model: greedy and sampled in one pass, with a key-value cache.

The one decoder: labelling, the gate's patched answers and the audits' samples come from here. What prompts have in
common is computed once: the tokens that all prompts of a batch begin with, and a prompt itself for all its samples.
When an answer is over is said in `answer_end.py`, how its tokens are drawn in `draws.py`.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from os.path import commonprefix
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.config import Decoding
from sae_train.lm.answer_end import first_line_is_whole
from sae_train.lm.architecture import read_with_cache
from sae_train.lm.draws import Draws, PerQuestion
from sae_train.lm.models import LanguageModel

ROWS = 256  # answers written at the same time
Reading = Callable[[list[int]], AbstractContextManager[None]]


@dataclass
class TokensSoFar:
    """In the place of a cache that cannot be repeated or selected from, as of recurrent models: all is read again.

    Attributes:
        ids: Everything read so far, (row, position).
    """

    ids: Int[Tensor, "row pos"]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self.ids = self.ids.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Int[Tensor, " kept"]) -> None:
        """Keep some rows."""
        self.ids = self.ids[indices]


@dataclass(frozen=True)
class Written:
    """What a model wrote behind one prompt.

    Attributes:
        greedy: The likeliest token each time.
        samples: Drawn ones, `Decoding.samples` of them.
    """

    greedy: str
    samples: tuple[str, ...] = ()


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
    is_over: Callable[[str], bool] = first_line_is_whole,
    rows: int = ROWS,
    draws: type[Draws] = PerQuestion,
    while_reading: Reading | None = None,
) -> list[Written]:
    """Return what the model writes behind each prompt, without special tokens, up to where it is over.

    Args:
        lm: The language model.
        prompts: Token ids, none of them empty.
        decoding: Length, number of samples, temperature, seed.
        is_over: Tells from the text so far that the rest is not wanted; the default is the rule for answers.
        rows: Answers written at the same time.
        draws: Where the random numbers come from.
        while_reading: Given the number of the prompt in each row of a batch, a context in which these are read: in one
            pass, nothing shared between them. What is written is written outside of it, but where all is read again at
            every step; there a prompt has a row for each of its samples.

    Raises:
        ShapeError: The model has no positions for a prompt and the longest answer behind it.
    """
    lm.check_tokens(prompts, behind=decoding.max_new_tokens - 1)  # the last token written is not read
    per_prompt = 1 + decoding.samples
    drawn = draws(decoding.samples, decoding.max_new_tokens, decoding.temperature, decoding.seed, lm.device)
    order = drawn.order(prompts)
    found: list[Written] = [Written("")] * len(prompts)
    for places in batches_by_length([len(prompts[i]) for i in order], max(1, rows // per_prompt)):
        batch = [order[i] for i in places]
        own = [prompts[i] for i in batch]
        with ExitStack() as reading:
            if while_reading is None:
                logits, cache = _read(lm, own)
            else:
                # What is read again in the context is read as the batch the context knows: every row is in it from
                # the beginning, samples too, and none leaves.
                n_each = 1 if lm.architecture.has_reusable_cache else per_prompt
                reading.enter_context(while_reading([i for i in batch for _ in range(n_each)]))
                ids = torch.tensor([prompts[i] for i in batch for _ in range(n_each)], device=lm.device)
                logits, cache = cached_forward(lm)(ids, None)
                if lm.architecture.has_reusable_cache:
                    reading.close()
            n_more = per_prompt * len(batch) // len(logits)
            if n_more > 1:
                logits = logits.repeat_interleave(n_more, dim=0)
                cache.batch_repeat_interleave(n_more)
            drawn.begin(own)
            may_leave = while_reading is None or lm.architecture.has_reusable_cache
            texts = _write(lm, logits, cache, drawn, is_over, may_leave=may_leave)
        for row, index in enumerate(batch):
            greedy, *sampled = texts[row * per_prompt : (row + 1) * per_prompt]
            found[index] = Written(greedy, tuple(sampled))
    return found


def _write(
    lm: LanguageModel,
    logits: Float[Tensor, "row vocab"],
    cache: Any,
    draws: Draws,
    is_over: Callable[[str], bool],
    *,
    may_leave: bool,
) -> list[str]:
    """Write the answer of every row of a batch, behind what is in the cache; a row that is done may leave it."""
    ends, forward = end_tokens(lm), cached_forward(lm)
    n_rows = len(logits)
    written: list[list[int]] = [[] for _ in range(n_rows)]
    texts, over, ended = [""] * n_rows, [False] * n_rows, [False] * n_rows
    rows = list(range(n_rows))  # which row each place of the batch is
    on_device = torch.arange(n_rows, device=lm.device)  # the same
    for step in range(draws.max_new_tokens):
        tokens = draws.choose(logits, on_device, step)
        going = [row for row in rows if not over[row]]
        for row, token in zip(rows, tokens.tolist(), strict=True):  # one transfer a step: which answers are over
            ended[row] |= token in ends
            if not over[row]:
                written[row].append(token)
        if going:  # of no rows the tokenizer makes one text
            said = lm.tokenizer.batch_decode([written[row] for row in going], skip_special_tokens=True)
            for row, text in zip(going, said, strict=True):
                texts[row], over[row] = text, ended[row] or is_over(text)
        stay = draws.staying(rows, over, ended)
        if not stay or step + 1 == draws.max_new_tokens:
            break
        if may_leave and len(stay) < len(rows):
            keep = torch.tensor(stay, device=lm.device)
            cache.batch_select_indices(keep)
            tokens, on_device, rows = tokens[keep], on_device[keep], [rows[place] for place in stay]
        logits = forward(tokens.unsqueeze(1), cache)[0]
    return texts


def _read(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "batch vocab"], Any]:
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

    Places, not a number: by a number transformers takes a view, which torch multiplies row by row of the batch. They
    lie on the device: places of the host would have to arrive there at every token.
    """
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return {}
    return {"logits_to_keep": torch.arange(-n_tokens, 0, device=next(model.parameters()).device)}


def _forward(lm: LanguageModel, last_only: dict[str, Tensor], tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Run the model on tokens behind a cache; return the last one's logits and the cache."""
    logits, cache = read_on(lm, tokens, cache, **last_only)
    return logits[:, -1], cache


def read_on(
    lm: LanguageModel, tokens: Int[Tensor, "row pos"], cache: Any, **more: Any
) -> tuple[Float[Tensor, "row out vocab"], Any]:
    """Read tokens behind a cache (None: at the beginning); return their logits, and the cache with them in it.

    Where a model has no cache that can be repeated and selected from, `TokensSoFar` takes its place.

    Args:
        lm: The model.
        tokens: What comes next in every row.
        cache: What an earlier call returned; it grows in place.
        more: Further words for the model.
    """
    if lm.architecture.has_reusable_cache:
        return read_with_cache(lm.model, tokens, cache, **more)
    whole = TokensSoFar(tokens[:, :0]) if cache is None else cache
    whole.ids = torch.cat([whole.ids, tokens], dim=1)
    return lm.model(input_ids=whole.ids, use_cache=False, **more).logits[:, -tokens.shape[1] :], whole


def end_tokens(lm: LanguageModel) -> set[int]:
    """Return the tokens that end a text, the tokenizer's own and those of the model's settings (end of turn)."""
    model: Any = lm.model
    settings = getattr(model.generation_config, "eos_token_id", None)
    found = settings if isinstance(settings, list) else [settings]
    return {int(i) for i in (*found, lm.tokenizer.eos_token_id) if i is not None}
