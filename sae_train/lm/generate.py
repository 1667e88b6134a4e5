"""Greedy answers and next-token log-probabilities, batched by exact length so that nothing is padded in front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from sae_train.lm.models import LanguageModel
from sae_train.lm.tokens import bos_prefix, encode_plain


def encode_prompts(lm: LanguageModel, prompts: Sequence[str]) -> list[list[int]]:
    """Tokenize prompts behind the beginning-of-sequence token, where there is one."""
    if not prompts:
        return []
    prefix = bos_prefix(lm.tokenizer)
    return [prefix + ids for ids in encode_plain(lm.tokenizer, list(prompts))[0]]


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


class _LineBreak(StoppingCriteria):
    """A row is done when it wrote a line break."""

    def __init__(self, breaks: Tensor) -> None:
        self.breaks = breaks

    def __call__(self, input_ids: Any, scores: Any, **_kwargs: Any) -> Any:
        """Tell for every row whether its last token holds a line break."""
        return torch.isin(input_ids[:, -1], self.breaks)


def _tokens_with_line_break(lm: LanguageModel) -> Int[Tensor, " n"]:
    """Return the tokens that hold a line break; byte-level vocabularies write it as U+010A."""
    found = [i for text, i in lm.tokenizer.get_vocab().items() if "\n" in text or "\u010a" in text or text == "<0x0A>"]
    return torch.tensor(sorted(found), dtype=torch.long, device=lm.device)


@torch.no_grad()
def greedy_answers(
    lm: LanguageModel, prompts: Sequence[str], *, max_new_tokens: int = 12, batch_size: int = 128
) -> list[str]:
    """Return what the model writes after each prompt, greedily and without special tokens, up to a line break."""
    ids = encode_prompts(lm, prompts)
    answers = [""] * len(ids)
    pad = lm.tokenizer.pad_token_id
    eos = lm.tokenizer.eos_token_id
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos,
        pad_token_id=pad if pad is not None else (eos if eos is not None else 0),
    )
    model: Any = lm.model
    breaks = _tokens_with_line_break(lm)
    with _own_generation_config(model, config):
        for batch in batches_by_length([len(i) for i in ids], batch_size):
            tokens = torch.tensor([ids[i] for i in batch], device=lm.device)
            stop = StoppingCriteriaList([_LineBreak(breaks)])
            out = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), generation_config=config, stopping_criteria=stop
            )
            texts = lm.tokenizer.batch_decode(out[:, tokens.shape[1] :], skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text
    return answers


@contextmanager
def _own_generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Set the model's settings aside: `generate` would take over what ours leave open, as a repetition penalty."""
    its_own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = its_own


def pad_right(
    sequences: Sequence[Sequence[int]], *, pad_id: int = 0, device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return token ids padded on the right, and the mask of real tokens."""
    longest = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)


def token_losses(
    lm: LanguageModel, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch next"], Float[Tensor, "batch next"]]:
    """Return the cross-entropy (nats) of every next token, and the mask of those that count."""
    logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return losses, mask[:, 1:].float()


@torch.no_grad()
def continuation_log_probs(
    lm: LanguageModel, prompts: Sequence[str], continuations: Sequence[str], *, batch_size: int = 64
) -> list[float]:
    """Return log p(continuation | prompt) summed over the continuation's tokens (nats), one per pair."""
    front = encode_prompts(lm, prompts)
    back = encode_plain(lm.tokenizer, list(continuations))[0] if continuations else []
    scores = [0.0] * len(front)
    for batch in batches_by_length([len(f) + len(b) for f, b in zip(front, back, strict=True)], batch_size):
        ids, mask = pad_right([front[i] + back[i] for i in batch], device=lm.device)
        losses, _ = token_losses(lm, ids, mask)
        for row, index in enumerate(batch):
            scores[index] = -float(losses[row, len(front[index]) - 1 :].sum())
    return scores


@torch.no_grad()
def text_loss(lm: LanguageModel, windows: Sequence[Sequence[int]], *, batch_size: int = 32) -> float:
    """Return the mean cross-entropy (nats per predicted token) over windows of token ids."""
    total = count = 0.0
    order = sorted(range(len(windows)), key=lambda i: len(windows[i]))
    for start in range(0, len(order), batch_size):
        ids, mask = pad_right([windows[i] for i in order[start : start + batch_size]], device=lm.device)
        losses, counts = token_losses(lm, ids, mask)
        total += float((losses * counts).sum())
        count += float(counts.sum())
    return total / count
